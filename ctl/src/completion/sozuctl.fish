# Completion of sozuctl for fish, made by `sozuctl completion fish`.
# Put it into ~/.config/fish/completions/sozuctl.fish, or: sozuctl completion fish | source

function __sozuctl_table
    switch "$argv[1]"
# TABLE
    end
end

function __sozuctl_next
    set -l said
    set -l skip no
    for word in (commandline -opc)[2..-1]
        if test $skip = yes
            set skip no
            continue
        end
        switch $word
            case -c --config -s --socket -f --file -t --timeout --confirm
                set skip yes
            case '-*' '*=*'
            case '*'
                set -a said $word
        end
    end
    test $skip = yes; and return
    set -l current (commandline -ct)
    if string match -q -- '*=*' $current
        __sozuctl_table "$said" | string match -r -- '.*=.+'
    else
        __sozuctl_table "$said" | string match -v -r -- '=.'
        test -z "$said"; and printf '%s\n' -c -s -t --json -V -h
    end
end

function __sozuctl_wants_file
    contains -- (commandline -opc)[-1] -c --config -s --socket -f --file
end

complete -c sozuctl -f -n 'not __sozuctl_wants_file' -a '(__sozuctl_next)'
complete -c sozuctl -F -n __sozuctl_wants_file
