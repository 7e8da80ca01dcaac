#compdef sozuctl
# Completion of sozuctl for zsh, made by `sozuctl completion zsh`.
# Put it into a folder of $fpath as _sozuctl, or: source <(sozuctl completion zsh)

_sozuctl_next() {
    case $1 in
# TABLE
    esac
}

_sozuctl() {
    local current=$words[CURRENT] previous=$words[CURRENT-1] said= word
    local -i index=2
    case $previous in
        -c | --config | -s | --socket | -f | --file) _files; return ;;
        -t | --timeout | --confirm) return 1 ;;
    esac
    while (( index < CURRENT )); do
        word=$words[index]
        case $word in
            -c | --config | -s | --socket | -f | --file | -t | --timeout | --confirm) (( index += 1 )) ;;
            -* | *=*) ;;
            *) said+=${said:+ }$word ;;
        esac
        (( index += 1 ))
    done
    local -a next
    next=(${=$(_sozuctl_next "$said")})
    [[ -z $said && $current == -* ]] && next=(-c -s -t --json -V -h)
    if [[ $current == *=* ]]; then
        compadd -- ${(M)next:#*=?*}
    else
        compadd -S '' -- ${(M)next:#*=}
        compadd -- ${next:#*=*}
    fi
}

if [[ $funcstack[1] == _sozuctl ]]; then
    _sozuctl "$@"
else
    compdef _sozuctl sozuctl
fi
