# shellcheck shell=bash
#
# Sourced: settles which PostgreSQL we mean.  The caller's PG_CONFIG, or that
# of version PG_MAJOR where Debian keeps it, or the first in PATH.
if [ -z "${PG_CONFIG-}" ]; then
	PG_CONFIG=${PG_MAJOR:+/usr/lib/postgresql/$PG_MAJOR/bin/}pg_config
fi
