#!/usr/bin/env bash
# New dataset folders. Runs from any directory.
#
#   bash data/create_new_dataset.sh NAME                       for a text of your own, from the template
#   bash data/create_new_dataset.sh NAME --streams_of TEXT     NAME_cvp, NAME_in_word_position and NAME_since_newline:
#                                                              the streams of data/TEXT (streams.py), prepared
#   ... --streams_of TEXT --part_of_speech                     and NAME_part_of_speech (part_of_speech.py)
set -euo pipefail
data=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() { echo "error: $1" >&2; exit 2; }

names=() text="" tagged=""
while [ $# -gt 0 ]; do
    case $1 in
        --streams_of) [ -n "${2:-}" ] || fail "--streams_of needs the name of a prepared dataset"; text=$2; shift ;;
        --part_of_speech) tagged=yes ;;
        *) names+=("$1") ;;
    esac
    shift
done
[ ${#names[@]} -eq 1 ] && [ -n "${names[0]}" ] || fail "give the new dataset one name: bash data/create_new_dataset.sh NAME"
[ -n "$text" ] || [ -z "$tagged" ] || fail "--part_of_speech goes with --streams_of"
name=${names[0]}
for word in "$name" ${text:+"$text"}; do
    case $word in
        */* | *\\*) fail "$word is a path. A dataset's name is one word; its folder is made in $data" ;;
        [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) fail "'$word' cannot be a name: start with a letter or digit, go on with those or . _ -" ;;
    esac
done

refuse_taken() {
    [ "$1" != template ] || fail "template is what new datasets are made from. Choose another name"
    [ ! -e "$data/$1" ] && [ ! -L "$data/$1" ] || fail "$data/$1 exists already. Choose another name, or remove it first"
}
begin() {  # a folder under another name, so that one called as wished is whole
    temporary=$data/.new.$1
    rm -rf "$temporary"
    trap 'rm -rf "$temporary"' EXIT
    mkdir "$temporary"
}

if [ -z "$text" ]; then
    refuse_taken "$name"
    begin "$name"
    for file in prepare.py get_dataset.sh README.md; do
        sed "s/NAME/$name/g" "$data/template/$file" > "$temporary/$file"
    done
    mv "$temporary" "$data/$name"
    echo "Made data/$name. Next:
  1. put your text in data/$name/input.txt (or fill in data/$name/get_dataset.sh)
  2. python data/$name/prepare.py          (--help shows the choices; edit it for anything else)
  3. python train.py --dataset=$name"
    exit
fi

python=$(command -v python || command -v python3)
made=""
for stream in cvp in_word_position since_newline ${tagged:+part_of_speech}; do
    new=${name}_$stream
    begin "$new"
    for file in prepare.py get_dataset.sh; do  # those of shakespeare_char's streams, with other names
        sed "s/shakespeare_char_$stream/@NEW@/g; s/shakespeare_char/$text/g; s/@NEW@/$new/g" \
            "$data/shakespeare_char_$stream/$file" > "$temporary/$file"
    done
    cat > "$temporary/README.md" <<README
# $new

The stream $stream of data/$text, one symbol for each of its characters. data/README.md tells of streams.

| | |
|---|---|
| kind | stream of $text |
| source | data/$text |

    bash data/$new/get_dataset.sh
README
    if cmp -s "$temporary/prepare.py" "$data/$new/prepare.py"; then  # of a run of this that was stopped, or of an older text
        rm -rf "$temporary"
        "$python" "$data/$new/prepare.py"
    else
        refuse_taken "$new"
        mv "$temporary" "$data/$new"
        "$python" "$data/$new/prepare.py" || { status=$?; rm -rf "${data:?}/$new"; exit $status; }
    fi
    made+=" $new"
done
echo "Made$made. Train on them side by side:
  python train.py --training_mode=multicontext --multicontext_datasets $text$made"
