#compdef pipe
# Completion of pipe for zsh: pipe completion zsh > "${fpath[1]}/_pipe"
_pipe() {
  local line files
  local -a names texts
  for line in "${(@f)$("${(Q)words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
    case $line in
    '') ;;
    :files) files=1 ;;
    *=) compadd -S '' -- "$line" ;;
    *) names+=("${line%%$'\t'*}"); texts+=("${line/$'\t'/  -- }") ;;
    esac
  done
  (( $#names )) && compadd -l -d texts -a names
  [[ -n $files ]] && _files
}
if [[ $funcstack[1] == _pipe ]]; then _pipe "$@"; else compdef _pipe pipe; fi
