#!/usr/bin/env bash
#
# The checks that need no server.  Runs inside sandbox.sh, which has compiled
# the sources with -Wall -Wextra -Werror.  Says all that is wrong, then fails.
set -euo pipefail

status=0
complain()
{
	echo "lint: $*" >&2
	status=1
}

scripts/format.sh --check || complain "run \"make format\""

# Without the server's headers cppcheck would stop at the #error in compat.h and
# find nothing wrong
include=$("$PG_CONFIG" --includedir-server)
[ -f "$include/postgres.h" ] || complain "no headers in $include"
cppcheck --quiet -j"$(nproc)" --error-exitcode=1 --inline-suppr --max-configs=1 \
	--enable=warning,performance,portability -I "$include" --suppress="*:$include/*" src || complain "cppcheck"

shellcheck scripts/*.sh .ci/run bench/run bench/inside || complain "shellcheck"

perl_dir=$(dirname "$("$PG_CONFIG" --pgxs)")/../test/perl
for file in test/t/*.pl; do
	perl -I "$perl_dir" -wc "$file" 2>&1 | grep -v 'syntax OK$' && complain "$file"
done

# A test that no list names would never run
listed()
{
	make -s "print-$1" | tr ' ' '\n' | sort
}
present() # DIRECTORY SUFFIX
{
	find "$1" -name "*.$2" -printf '%f\n' | sed "s/\.$2\$//" | sort
}
diff <(listed REGRESS) <(present test/sql sql) || complain "REGRESS is not what test/sql holds"
diff <(listed ISOLATION) <(present test/specs spec) || complain "ISOLATION is not what test/specs holds"

# One file runs statements and changes the user that they run as
! grep -nE '\b(SPI_(exec|prepare|keepplan|cursor_open|commit|rollback)\w*|SetUserIdAndSecContext|SetSessionAuthorization|NewGUCNestLevel)\b *\(' \
	src/*.c | grep -v '^src/run\.c:' || complain "statements run in src/run.c"

! grep -l PG_VERSION_NUM src/* | grep -v '^src/compat\.h$' || complain "PG_VERSION_NUM belongs in src/compat.h"

# The control file holds the version; META.json repeats it
version=$(make -s print-EXTVERSION)
perl -MJSON::PP -0777 -e '
	my ($version, $meta) = ($ARGV[0], decode_json(<STDIN>));
	exit grep { $_ !~ /^\Q$version\E(\.0)?$/ } $meta->{version}, $meta->{provides}{prompt_stats}{version};
' "$version" <META.json || complain "META.json is not of version $version"
[ "$(grep -c '^## .*(unreleased)' CHANGELOG.md)" = "$(grep -c '"release_status": "testing"' META.json)" ] ||
	complain "CHANGELOG.md and META.json do not agree on what is released"

# The README quotes the first result that it names: its plots, and rows of its table,
# whose contenders it calls by other names
how_fast=$(sed -n '/^## How fast/,/^## Functions/p' README.md)
result=$(grep -om1 'bench/results/[^/)]*/summary\.md' <<<"$how_fast" || true)
figures=$({ grep '^| .*[0-9] (' <<<"$how_fast" || true; } | sed -E '
	s/^\| \W([a-z]+)\W \|/| prompt_stats (\1) |/
	s/^\| a C function that does nothing /| no-op C function /
	s/^(\| slotted counter), 64 slots /\1 /
	s/^(\| delta table) with a roll-up each second /\1 /')
if [ -z "$figures" ] || [ ! -f "$result" ] || grep -vxFf "$result" <<<"$figures"; then
	complain "these figures of the README are not in $result"
fi
! grep -o '](bench/results/.*svg)' <<<"$how_fast" | grep -vF "](${result%/*}/" ||
	complain "these plots of the README are not those of ${result%/*}"

exit $status
