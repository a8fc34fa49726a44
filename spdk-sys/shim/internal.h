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

struct spdk_nvme_ctrlr;
/* nvme.c: the driver of an attached controller, or NULL. */
struct spdk_nvme_ctrlr *cs_nvme_driver_of(const char *name);

#endif
