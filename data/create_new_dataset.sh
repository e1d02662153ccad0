#!/usr/bin/env bash
# Makes dataset folders. It may be called from any directory.
#
#   bash data/create_new_dataset.sh NAME     data/NAME for your own text: a copy of data/template
#   bash data/create_new_dataset.sh PATH     the same somewhere else, for example /big/disk/mine
#   bash data/create_new_dataset.sh NAME --hub OWNER/REPO     a dataset from the Hugging Face hub: a
#       prepare.py like that of data/tiny-stories, in which one line names the files
#   bash data/create_new_dataset.sh NAME --streams_of TEXT [--part_of_speech]
#       the aligned streams of data/TEXT, prepared: NAME_cvp, NAME_in_word_position,
#       NAME_since_newline, and with --part_of_speech also NAME_part_of_speech
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # typed as: sh data/create_new_dataset.sh
set -euo pipefail
data=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$data")
fail() { echo "error: $1" >&2; exit 2; }
usage="give the new dataset one name: bash data/create_new_dataset.sh NAME"

names=() text="" tagged="" hub=""
while [ $# -gt 0 ]; do
    case $1 in
        --streams_of) [ -n "${2:-}" ] || fail "--streams_of needs the name of a prepared dataset"
            text=$2; shift ;;
        --part_of_speech) tagged=yes ;;
        -h | --help) sed -n '2,/^\[/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
        --hub) hub=${2:-}; shift
            case $hub in *[!A-Za-z0-9._/-]* | */*/* | /* | */ | "") hub=- ;; */*) ;; *) hub=- ;; esac
            [ "$hub" != - ] || fail "--hub needs a repository of the hub, such as --hub roneneldan/TinyStories" ;;
        *) names+=("$1") ;;
    esac
    shift
done
[ ${#names[@]} -eq 1 ] && [ -n "${names[0]}" ] || fail "$usage"
[ -z "$text" ] || [ -z "$hub" ] || fail "--hub and --streams_of make different datasets. Choose one of them"
[ -n "$text" ] || [ -z "$tagged" ] || fail "--part_of_speech needs --streams_of TEXT"

refuse_odd() {
    case $1 in [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*)
        fail "'$1' cannot be a name. A name may hold only letters, digits, . _ and -, and must begin with a letter or digit" ;;
    esac
}
refuse_taken() {
    [ ! -e "$1" ] && [ ! -L "$1" ] || fail "$1 exists already. Choose another name, or remove it first"
}
begin() {  # build in a folder of another name, so that a folder named $2 is always complete
    temporary=$1/.new.$2
    rm -rf "$temporary"
    trap 'rm -rf "$temporary"' EXIT
    mkdir "$temporary"
}

place=$data name=${names[0]}
case $name in
    */*)  # a path
        [ -z "$text" ] || fail "$name is a path. With --streams_of, give a name: the streams are made in $data"
        case $name in *[\"\'\\\$\`\|\&]* | *$'\n'*)
            fail "$name contains a character that is special in a shell (a quote, \\ \$ \` | & or a newline). Choose another folder" ;;
        esac
        while [ "$name" != / ] && [ "${name%/}" != "$name" ]; do name=${name%/}; done
        parent=$(dirname -- "$name") name=$(basename -- "$name")
        place=$(CDPATH= cd -- "$parent" 2> /dev/null && pwd) ||
            fail "there is no folder $parent. Run: mkdir -p $(printf %q "$parent")"
        [ "$place" != / ] || fail "/$name lies directly below /. Choose a folder further down"
        [ "$place" -ef "$data" ] && place=$data ;;
esac
refuse_odd "$name"

if [ -z "$text" ]; then
    refuse_taken "$place/$name"
    begin "$place" "$name"
    folder=data/$name dataset=$name outside=""
    if [ "$place" != "$data" ]; then  # its scripts cannot find the program by their own place
        folder=$(printf %q "$place/$name") dataset=$folder
        outside="s|^root=.*|root='$root'|; s|os.getcwd()]|os.getcwd(), \"$root\"]|"
    fi
    for file in prepare.py get_dataset.sh README.md; do
        from=$data/template/$file like=""
        if [ -n "$hub" ] && [ "$file" = README.md ]; then
            like="s| *# or put a text in .*||;"
        elif [ -n "$hub" ]; then
            from=$data/tiny-stories/$file
            like="s|^TinyStories: .*|NAME: the rows of $hub on the Hugging Face hub, as GPT-2 tokens.|
                  s|roneneldan/TinyStories|$hub|; s|tiny-stories|NAME|g;"
        fi
        sed "$like s|data/NAME|@FOLDER@|g; s|dataset=NAME|dataset=@DATASET@|g; s|NAME|$name|g; $outside
             s|@FOLDER@|${folder//\\/\\\\}|g; s|@DATASET@|${dataset//\\/\\\\}|g" \
            "$from" > "$temporary/$file"
    done
    mv "$temporary" "$place/$name"
    here=""
    [ "$PWD" -ef "$root" ] || here="
  0. cd $(printf %q "$root")"
    first="put your text in $folder/input.txt (or fill in $folder/get_dataset.sh)"
    [ -z "$hub" ] || first="check in $folder/prepare.py that prepare(...) names the files of $hub"
    echo "Made $folder. Next:$here
  1. $first
  2. python $folder/prepare.py          (flags: --help; for anything else, edit prepare.py)
  3. python train.py --dataset=$dataset"
    exit
fi

refuse_odd "$text"
python=$(command -v python || command -v python3 || echo python)
made=""
for stream in cvp in_word_position since_newline ${tagged:+part_of_speech}; do
    new=${name}_$stream
    begin "$data" "$new"
    for file in prepare.py get_dataset.sh; do  # copied from the same stream of shakespeare_char
        sed "s/shakespeare_char_$stream/@NEW@/g; s/shakespeare_char/$text/g; s/@NEW@/$new/g" \
            "$data/shakespeare_char_$stream/$file" > "$temporary/$file"
    done
    cat > "$temporary/README.md" <<README
# $new

The aligned stream $stream of data/$text: one symbol for each of its characters.

| | |
|---|---|
| kind | stream of $text |
| source | data/$text |

    bash data/$new/get_dataset.sh
README
    if cmp -s "$temporary/prepare.py" "$data/$new/prepare.py"; then  # made by an earlier run of this
        rm -rf "$temporary"
        "$python" "$data/$new/prepare.py"
    else
        refuse_taken "$data/$new"
        mv "$temporary" "$data/$new"
        "$python" "$data/$new/prepare.py" || { status=$?; rm -rf "${data:?}/$new"; exit $status; }
    fi
    made+=" $new"
done
echo "Made$made. Train on them side by side:
  python train.py --training_mode=multicontext --multicontext_datasets $text$made"
