# Completion of pipe for fish: pipe completion fish > ~/.config/fish/completions/pipe.fish
function __pipe_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    for line in ($program __complete $words "$current" 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path $current
        else
            echo $line
        end
    end
end
complete -c pipe -f -a '(__pipe_complete)'
