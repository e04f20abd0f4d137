/*
 * slowsync.c
 *	  A slower disk: every fsync and fdatasync takes SLOWSYNC_US longer.
 *
 * Preloaded into the postmaster (LD_PRELOAD), inherited by every backend.
 * It covers wal_sync_method fdatasync (Linux's default) and fsync; the
 * open_sync methods flush inside write() and are not slowed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static void
sleep_us(void)
{
	const char *setting = getenv("SLOWSYNC_US");
	long		us = setting ? atol(setting) : 0;
	struct timespec left = {us / 1000000, us % 1000000 * 1000};

	/* A signal must not make the disk faster. */
	while (nanosleep(&left, &left) == -1 && errno == EINTR)
		;
}

static int
slowly(const char *name, int fd)
{
	int			(*real) (int) = (int (*) (int)) dlsym(RTLD_NEXT, name);

	sleep_us();
	return real(fd);
}

int
fsync(int fd)
{
	return slowly("fsync", fd);
}

int
fdatasync(int fd)
{
	return slowly("fdatasync", fd);
}
