/*
 * An NVMe device that has left the machine: its driver is told so.
 *
 * `nvme/nvme_internal.h` is private to SPDK's driver: `spdk_nvme_ctrlr_fail`, which is public, would leave queues to be deleted
 * by command. From 24.09 on it cannot be included together with `bdev_nvme.h`, which nvme.c needs.
 */
#include "internal.h"

#include "nvme/nvme_internal.h"

void
cs_nvme_unplugged(const char *name)
{
	struct spdk_nvme_ctrlr *driver = cs_nvme_driver_of(name);

	if (driver != NULL && !driver->is_removed) {
		/* What SPDK's own hotplug monitor does. */
		nvme_ctrlr_fail(driver, true);
	}
}
