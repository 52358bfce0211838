# Completion of pipe for bash: source <(pipe completion bash)
_pipe() {
  local line files= cur=${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
    :files) files=1 ;;
    *=) COMPREPLY+=("$line"); compopt -o nospace 2>/dev/null ;;
    *) COMPREPLY+=("$(printf %q "${line%%$'\t'*}")") ;;
    esac
  done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  if [[ $files ]]; then
    compopt -o filenames 2>/dev/null
    [[ $cur == = ]] && cur=
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$cur")
  fi
}
complete -F _pipe pipe
