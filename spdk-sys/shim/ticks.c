/* The clock of SPDK's bdev layer: the time at which the reactor's turn began.
 *
 * The bdev layer reads the time-stamp counter when an I/O is submitted and when it completes, on every bdev that the I/O
 * passes: a mirrored write to two lvols does it ten times, for its latency statistics, its rate limits and its timeouts.
 * None of these needs more than the time of the turn, and a reading costs a virtual machine some 20 ns. build/link.rs lets
 * that layer, and nothing else of SPDK, call cs_bdev_ticks() where it calls spdk_get_ticks(). */
#include "internal.h"

/* Zero on a thread that is no reactor. */
static __thread uint64_t t_turn_ticks;

uint64_t
cs_bdev_ticks(void)
{
	return t_turn_ticks != 0 ? t_turn_ticks : spdk_get_ticks();
}

void
cs_bdev_ticks_set(uint64_t now)
{
	t_turn_ticks = now;
}
