#!/usr/bin/env bash
#
# Installs what is missing, with apt-get; touches nothing when nothing is.
#
#   scripts/deps.sh build    a server, its headers, a compiler, what tests need
#   scripts/deps.sh lint     the checkers
#   scripts/deps.sh bench    what we are measured against, and the plots
#
# PG_MAJOR=17 asks for that version of PostgreSQL, PG_CONFIG=... for one that
# is there already.
set -euo pipefail

# shellcheck source=scripts/pg_config.sh
. "$(dirname "$0")/pg_config.sh"

missing=()
need() # PACKAGE COMMAND...: the package, unless the command succeeds
{
	"${@:2}" >/dev/null 2>&1 || missing+=("$1")
}

has_server()
{
	[ -x "$("$PG_CONFIG" --bindir)/postgres" ]
}

has_headers()
{
	[ -f "$("$PG_CONFIG" --pgxs)" ] && [ -f "$("$PG_CONFIG" --includedir-server)/postgres.h" ]
}

case ${1-} in
	build)
		need "${CC:-gcc}" command -v "${CC:-gcc}"
		need libc6-dev test -e /usr/include/stdlib.h
		need make command -v make
		need perl perl -MTAP::Harness -e 1
		need libipc-run-perl perl -MIPC::Run -e 1
		need postgresql has_server
		need postgresql-server-dev has_headers
		;;
	lint)
		need cppcheck command -v cppcheck
		need pg-bsd-indent command -v pg_bsd_indent
		need shellcheck command -v shellcheck
		;;
	bench)
		need gnuplot-nox command -v gnuplot
		need python3 command -v python3
		need redis-server command -v redis-server
		need redis-tools command -v redis-benchmark
		;;
	*)
		echo "usage: $0 build|lint|bench" >&2
		exit 2
		;;
esac
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
if ! command -v apt-get >/dev/null || ! command -v "${as_root[@]:-true}" >/dev/null; then
	echo "Please install these packages, or what your system calls them: ${missing[*]} (PostgreSQL 15 or later)" >&2
	exit 1
fi
as_root+=(env DEBIAN_FRONTEND=noninteractive)

echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq

# The packages of a server carry its major version in their names: that of
# what is there in part, or else what the system has
major=${PG_MAJOR:-$("$PG_CONFIG" --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/' || true)}
major=${major:-$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p')}
missing=("${missing[@]/%postgresql/postgresql-$major}")
missing=("${missing[@]/%postgresql-server-dev/postgresql-server-dev-$major}")

# Debian makes and starts a cluster with each new server: not for us
conf=/etc/postgresql-common/createcluster.d/prompt_stats.conf
trap '"${as_root[@]}" rm -f "$conf"' EXIT
"${as_root[@]}" mkdir -p "${conf%/*}"
"${as_root[@]}" sh -c "echo create_main_cluster = off >$conf"

"${as_root[@]}" apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
