#!/usr/bin/env bash
#
# Runs the tests on what sandbox.sh has built; the last line of its output is
# "N passed, N failed".
#
#   TESTS="setup 001_*"   only the tests of these names
#   SUITES="tap"          only these of: regress isolation tap
set -euo pipefail

# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh

passed=0
failed=0

count() # PASSED FAILED
{
	passed=$((passed + $1))
	failed=$((failed + $2))
}

choose() # NAME...: sets "tests" to those that TESTS asks for
{
	local name pattern patterns
	read -ra patterns <<<"${TESTS:-*}"
	tests=()
	for name; do
		for pattern in "${patterns[@]}"; do
			# shellcheck disable=SC2053 # a pattern on purpose
			[[ $name != $pattern ]] || tests+=("$name")
		done
	done

	# A suite that has nothing to say is broken, unless nobody asked it
	if [ ${#tests[@]} = 0 ] && [ -z "${TESTS-}" ]; then
		echo "no tests found"
		count 0 1
	fi
	[ ${#tests[@]} -gt 0 ]
}

# Runs what one list of the Makefile names and the other does not.  A test that
# has not reported its success has failed, whether it ran or not.
run_list() # LIST OTHER
{
	local names ok status=0
	read -ra names <<<"$(make -s "print-$1")"
	choose "${names[@]}" || return 0

	make -s installcheck "$1=${tests[*]}" "$2=" 2>&1 | tee "$HOME/output" || status=1
	ok=$(grep -cE '^ok [0-9]|\.\.\. ok ' "$HOME/output" || true)
	count "$ok" $((${#tests[@]} - ok))
	if [ $status != 0 ]; then
		[ "$ok" != ${#tests[@]} ] || count 0 1
		[ ! -e regression.diffs ] || cat regression.diffs
		grep -E 'PANIC|was terminated by|Sanitizer|runtime error' "$PGDATA/server.log" || true
	fi
	echo
}

# Counted by assertion.  A file may also die, or stop early, without a "not ok".
run_tap()
{
	local files src name ok not_ok
	shopt -s nullglob
	files=(test/t/*.pl)
	files=("${files[@]##*/}")
	choose "${files[@]%.pl}" || return 0

	# As PGXS's own rule sets them, for PostgreSQL 15 and for later ones
	src=$(dirname "$("$PG_CONFIG" --pgxs)")/..
	export PG_REGRESS=$src/test/regress/pg_regress PERL5LIB=$src/test/perl
	export TESTDIR=$HOME TESTDATADIR=$HOME/tmp_check TESTLOGDIR=$HOME/tmp_check/log

	# shellcheck disable=SC2016 # the variables are Perl's
	perl -MTAP::Harness -e '
		my @tests = map { [ "test/t/$_.pl", $_ ] } @ARGV;
		my $result = TAP::Harness->new({ timer => 1 })->runtests(@tests);
		open my $out, ">", "$ENV{HOME}/result" or die $!;
		foreach my $name ($result->descriptions)
		{
			my ($test) = $result->parsers($name);
			my $failed = $test->failed || ($test->has_problems ? 1 : 0);
			print $out "$name ", scalar $test->passed, " $failed\n";
		}
	' "${tests[@]}"

	while read -r name ok not_ok; do
		count "$ok" "$not_ok"
		[ "$not_ok" = 0 ] || tail -n 60 "$HOME/tmp_check/log/regress_log_$name"
	done <"$HOME/result"
}

suites=${SUITES:-regress isolation tap}
[ "$suites" = tap ] || start_server -c fsync=off
for suite in $suites; do
	case $suite in
		regress) run_list REGRESS ISOLATION ;;
		isolation) run_list ISOLATION REGRESS ;;
		tap) run_tap ;;
	esac
done

[ $((passed + failed)) -gt 0 ] || { echo "no test is called ${TESTS-}"; failed=1; }
echo "$passed passed, $failed failed"
[ $failed = 0 ]
