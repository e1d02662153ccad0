#!/usr/bin/env bash
# A new dataset folder from the template: bash data/create_new_dataset.sh NAME. Runs from any directory.
set -euo pipefail
data=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() { echo "error: $1" >&2; exit 2; }

[ $# -eq 1 ] && [ -n "$1" ] || fail "give the new dataset one name: bash data/create_new_dataset.sh NAME"
name=$1
case $name in
    */* | *\\*) fail "$name is a path. A dataset's name is one word; its folder is made in $data" ;;
    [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) fail "'$name' cannot be a name: start with a letter or digit, go on with those or . _ -" ;;
esac
[ ! -e "$data/$name.py" ] && [ "$name" != template ] || fail "$name is a part of this program. Choose another name"
[ ! -e "$data/$name" ] && [ ! -L "$data/$name" ] || fail "$data/$name exists already. Choose another name, or remove it first"

# made under another name, so that a folder called $name is whole
temporary=$(mktemp -d "$data/.new.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
chmod 755 "$temporary"
for file in prepare.py get_dataset.sh README.md; do
    sed "s/NAME/$name/g" "$data/template/$file" > "$temporary/$file"
done
mv "$temporary" "$data/$name"

echo "Made data/$name. Next:
  1. put your text in data/$name/input.txt (or fill in data/$name/get_dataset.sh)
  2. python data/$name/prepare.py          (--help shows the choices; edit it for anything else)
  3. python train.py --dataset=$name"
