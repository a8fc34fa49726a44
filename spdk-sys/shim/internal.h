/* What the shim's own files share: SPDK's public headers and the release switch. */
#ifndef CORRIENTE_SHIM_INTERNAL_H
#define CORRIENTE_SHIM_INTERNAL_H

#include "spdk/stdinc.h"
#include "spdk/version.h"
#include "spdk/env.h"
#include "spdk/env_dpdk.h"
#include "spdk/log.h"
#include "spdk/thread.h"
#include "spdk/cpuset.h"
#include "spdk/uuid.h"
#include "spdk/util.h"
#include "spdk/bdev.h"
#include "spdk/bdev_module.h"

#include "cs.h"

#define CS_SPDK_SINCE(year, month) (SPDK_VERSION >= SPDK_VERSION_NUM(year, month, 0))

/* bdev.c: SPDK's number of one of our I/O types. */
enum spdk_bdev_io_type cs_spdk_io_type(enum cs_io_type type);
/* bdev.c: whether anybody has the bdev open. */
bool cs_bdev_is_open(struct spdk_bdev *bdev);
/* bdev.c: whether a module has claimed the bdev. */
bool cs_bdev_is_claimed(const struct spdk_bdev *bdev);

/* Bdevs of one attach that are told: namespaces of a controller (ours have one), SCSI targets of a virtio device. */
#define CS_MAX_NAMES 16

/* How often an attach, a detach or a change of a subsystem is looked after. */
#define CS_POLL_US 1000

/* The moment so long from now, in ticks. */
static inline uint64_t
cs_deadline_after(uint32_t timeout_ms)
{
	return spdk_get_ticks() + (uint64_t)timeout_ms * spdk_get_ticks_hz() / 1000;
}

static inline bool
cs_deadline_passed(uint64_t deadline)
{
	return spdk_get_ticks() >= deadline;
}

/* For an operation whose end nobody waits for. */
static inline void
cs_nobody_waits(void *arg, int rc)
{
	(void)arg;
	(void)rc;
}

struct spdk_nvme_ctrlr;
/* nvme.c: the driver of an attached controller, or NULL. */
struct spdk_nvme_ctrlr *cs_nvme_driver_of(const char *name);

#endif
