# Completion of sozuctl for bash, made by `sozuctl completion bash`.
# Put it into /etc/bash_completion.d, or: source <(sozuctl completion bash)

_sozuctl_next() {
    case $1 in
# TABLE
    esac
}

_sozuctl() {
    COMPREPLY=()
    # Split at spaces only: bash itself splits at = and : as well.
    local line=${COMP_LINE:0:COMP_POINT} words current previous said= index=1
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    local last=$((${#words[@]} - 1))
    current=${words[last]} previous=${words[last - 1]}
    case $previous in
        -c | --config | -s | --socket | -f | --file)
            compopt -o filenames
            local IFS=$'\n'
            COMPREPLY=($(compgen -f -- "$current"))
            return ;;
        -t | --timeout | --confirm) return ;;
    esac
    while ((index < last)); do
        case ${words[index]} in
            -c | --config | -s | --socket | -f | --file | -t | --timeout | --confirm) ((index += 1)) ;;
            -* | *=*) ;;
            *) said+=${said:+ }${words[index]} ;;
        esac
        ((index += 1))
    done
    local word next list=()
    next=$(_sozuctl_next "$said")
    [[ -z $said && $current == -* ]] && next='-c -s -t --json -V -h'
    for word in $next; do
        # Values only behind their key, and only they.
        if [[ $current == *=* ]]; then
            [[ $word == *=?* ]] && list+=("$word")
        else
            [[ $word == *=?* ]] || list+=("$word")
        fi
    done
    COMPREPLY=($(compgen -W "${list[*]}" -- "$current"))
    [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace
    if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
}

complete -F _sozuctl sozuctl
