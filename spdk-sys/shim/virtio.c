/*
 * Virtio disks of this machine: PCI functions that SPDK's own virtio driver runs.
 *
 * `bdev/virtio/bdev_virtio.h` is private to SPDK's virtio module: no release offers attach or detach in a public
 * header. An SPDK that was built without the module answers -ENOTSUP.
 */
#include "internal.h"

#ifdef CS_HAVE_VIRTIO

#include <rte_eal.h>

#include "spdk/string.h"
#include "bdev/virtio/bdev_virtio.h"

struct virtio_attach {
	char name[256];
	uint64_t deadline;
	struct spdk_poller *poller;
	/* NULL once the waiter has been told that the time is over. */
	cs_nvme_attach_cb cb;
	void *arg;
};

static void
attach_answer(struct virtio_attach *attach, struct spdk_bdev **bdevs, size_t count, int rc)
{
	const char *names[CS_MAX_NAMES];
	cs_nvme_attach_cb cb = attach->cb;
	size_t told = rc == 0 ? spdk_min(count, (size_t)CS_MAX_NAMES) : 0;

	for (size_t i = 0; i < told; i++) {
		names[i] = spdk_bdev_get_name(bdevs[i]);
	}
	attach->cb = NULL;
	spdk_poller_unregister(&attach->poller);
	cb(attach->arg, names, told, rc);
}

/* The targets of a scsi device were looked for. */
static void
scanned(void *context, int rc, struct spdk_bdev **bdevs, size_t count)
{
	struct virtio_attach *attach = context;

	if (attach->cb != NULL) {
		attach_answer(attach, bdevs, count, rc);
	} else if (rc == 0) {
		/* Too late: nobody knows of it, so it goes. */
		bdev_virtio_scsi_dev_remove(attach->name, cs_nobody_waits, NULL);
	}
	free(attach);
}

static int
attach_late(void *context)
{
	struct virtio_attach *attach = context;

	if (!cs_deadline_passed(attach->deadline)) {
		return SPDK_POLLER_IDLE;
	}
	/* The scan goes on and holds the context; `scanned` frees it. */
	attach_answer(attach, NULL, 0, -ETIMEDOUT);
	return SPDK_POLLER_BUSY;
}

static void
attach_blk(struct virtio_attach *attach, struct spdk_pci_addr *address)
{
	struct spdk_bdev *bdev = bdev_virtio_pci_blk_dev_create(attach->name, address);

	/* SPDK gives no reason; its log has it. */
	attach_answer(attach, &bdev, 1, bdev == NULL ? -ENODEV : 0);
	free(attach);
}

static void
attach_scsi(struct virtio_attach *attach, struct spdk_pci_addr *address, uint32_t timeout_ms)
{
	int rc;

	attach->deadline = cs_deadline_after(timeout_ms);
	attach->poller = spdk_poller_register_named(attach_late, attach, CS_POLL_US, "corriente_virtio_attach");
	rc = attach->poller == NULL ? -ENOMEM :
	     bdev_virtio_pci_scsi_dev_create(attach->name, address, scanned, attach);
	if (rc != 0) {
		/* SPDK answers 1 when no driver took the function. */
		attach_answer(attach, NULL, 0, rc < 0 ? rc : -ENODEV);
		free(attach);
	}
}

void
cs_virtio_attach(const char *name, const char *pci_address, enum cs_virtio_kind kind,
		 uint32_t timeout_ms, cs_nvme_attach_cb cb, void *arg)
{
	struct virtio_attach *attach;
	struct spdk_pci_addr address;
	int rc = spdk_pci_addr_parse(&address, pci_address);

	if (rc == 0 && spdk_bdev_get_by_name(name) != NULL) {
		rc = -EEXIST;
	}
	/*
	 * SPDK tells the device where a buffer begins, and takes the rest to be behind that: true of the addresses that an
	 * IOMMU makes, but of physical ones only up to the end of a page. I/O would reach memory of others.
	 */
	if (rc == 0 && rte_eal_iova_mode() != RTE_IOVA_VA) {
		rc = -EPERM;
	}
	if (rc == 0 && strlen(name) >= sizeof(attach->name)) {
		rc = -ENAMETOOLONG;
	}
	attach = rc == 0 ? calloc(1, sizeof(*attach)) : NULL;
	if (attach == NULL) {
		cb(arg, NULL, 0, rc == 0 ? -ENOMEM : rc);
		return;
	}
	snprintf(attach->name, sizeof(attach->name), "%s", name);
	attach->cb = cb;
	attach->arg = arg;
	if (kind == CS_VIRTIO_BLK) {
		attach_blk(attach, &address);
	} else {
		attach_scsi(attach, &address, timeout_ms);
	}
}

/* Whether somebody uses a bdev of the device; a scsi one's are "<name>t<target>". */
static bool
is_used(const char *name, enum cs_virtio_kind kind)
{
	size_t length = strlen(name);
	struct spdk_bdev *bdev;

	for (bdev = spdk_bdev_first(); bdev != NULL; bdev = spdk_bdev_next(bdev)) {
		const char *other = spdk_bdev_get_name(bdev);
		bool ours = kind == CS_VIRTIO_BLK ? strcmp(other, name) == 0 :
			    strncmp(other, name, length) == 0 && other[length] == 't' &&
			    strcmp(bdev->module->name, "virtio_scsi") == 0;

		if (ours && (cs_bdev_is_claimed(bdev) || cs_bdev_is_open(bdev))) {
			return true;
		}
	}
	return false;
}

void
cs_virtio_detach(const char *name, enum cs_virtio_kind kind, cs_done_cb cb, void *arg)
{
	int rc;

	if (is_used(name, kind)) {
		cb(arg, -EBUSY);
		return;
	}
	rc = kind == CS_VIRTIO_BLK ? bdev_virtio_blk_dev_remove(name, cb, arg) :
	     bdev_virtio_scsi_dev_remove(name, cb, arg);
	if (rc != 0) {
		cb(arg, rc);
	}
}

#else

void
cs_virtio_attach(const char *name, const char *pci_address, enum cs_virtio_kind kind,
		 uint32_t timeout_ms, cs_nvme_attach_cb cb, void *arg)
{
	cb(arg, NULL, 0, -ENOTSUP);
}

void
cs_virtio_detach(const char *name, enum cs_virtio_kind kind, cs_done_cb cb, void *arg)
{
	cb(arg, -ENOTSUP);
}

#endif
