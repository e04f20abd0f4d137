#!/usr/bin/env bash
#
# Lays out the C sources as pgindent does; with --check only says what it would
# change, and fails if that is anything.
set -euo pipefail

cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# The PostgreSQL types that we use are listed, our own are found
{
	cat scripts/typedefs.list
	sed -nE 's/^\}[ \t]+([A-Za-z]+);$/\1/p; s/^typedef .*\(\*([A-Za-z]+)\).*/\1/p' src/*.[ch]
} >"$tmp/typedefs"

# The options of PostgreSQL's own pgindent, and what it mends before and after
indent()
{
	sed -E 's!^([ \t]*)//(.*)$!\1/* \2 */!; s!/\* +---!/*---X_X!g' |
		pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 -nfc1 -i4 -l79 \
			-lp -lpl -nip -npro -sac -tpg -ts4 -U"$tmp/typedefs" |
		sed -E 's!/\*---X_X!/* ---!g; s!\*/(/\*.*\*/)$!*/\t\1!; s!^([A-Za-z_]\S*)[ \t]+\*$!\1 *!'
}

status=0
for file in src/*.[ch]; do
	indent <"$file" >"$tmp/out"
	if [ "${1-}" = --check ]; then
		diff -u --label "$file" --label "$file, formatted" "$file" "$tmp/out" || status=1
	elif ! cmp -s "$file" "$tmp/out"; then
		cat "$tmp/out" >"$file"
		echo "formatted $file"
	fi
done
exit $status
