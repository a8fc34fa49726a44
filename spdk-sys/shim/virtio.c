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
#include "spdk_internal/virtio.h"
#include "bdev/virtio/bdev_virtio.h"

/* Virtio 1.2, §6: the device addresses memory as the platform's IOMMU translates it. 33 since virtio 1.0. */
#define ACCESS_PLATFORM 33

/* ------------------------------------------------------------------ a device while it is attached */

/* Of the control thread alone, as attaches are: from the reset of the device to the end of its probe. */
static bool g_probing;
static struct virtio_dev *g_attaching;
static const struct virtio_dev_ops *g_original;
static struct virtio_dev_ops g_guarded;
static int g_reset_rc;

static void
leave_it(struct virtio_dev *dev)
{
	(void)dev;
}

/*
 * SPDK's module of virtio disks calls this for virtio_dev_reset (build/link.rs).
 * 1. SPDK does not ask for ACCESS_PLATFORM. A device that needs it then refuses, and one that does without goes past the
 *    IOMMU, where our addresses mean other memory. It is asked for, and must be had.
 * 2. A device that is refused while it is probed is taken apart twice, by the module and by the probe, and the process
 *    dies of it. So the module's part does nothing until the probe is over.
 */
int
cs_virtio_dev_reset(struct virtio_dev *dev, uint64_t features)
{
	int rc = virtio_dev_reset(dev, features | 1ULL << ACCESS_PLATFORM);

	if (rc == 0 && !virtio_dev_has_feature(dev, ACCESS_PLATFORM)) {
		rc = -EPERM;
	}
	g_reset_rc = rc;
	if (g_probing && g_attaching == NULL) {
		g_attaching = dev;
		g_original = dev->backend_ops;
		g_guarded = *dev->backend_ops;
		g_guarded.destruct_dev = leave_it;
		dev->backend_ops = &g_guarded;
	}
	return rc;
}

static void
probe_begins(void)
{
	g_probing = true;
	g_attaching = NULL;
	g_reset_rc = 0;
}

/* A device that was refused is gone. */
static void
probe_ends(bool taken)
{
	if (taken && g_attaching != NULL) {
		g_attaching->backend_ops = g_original;
	}
	g_probing = false;
	g_attaching = NULL;
}

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
	struct spdk_bdev *bdev;

	probe_begins();
	bdev = bdev_virtio_pci_blk_dev_create(attach->name, address);
	probe_ends(bdev != NULL);
	/* SPDK gives no reason; its log has it. */
	attach_answer(attach, &bdev, 1, bdev != NULL ? 0 : g_reset_rc == -EPERM ? -EPERM : -ENODEV);
	free(attach);
}

static void
attach_scsi(struct virtio_attach *attach, struct spdk_pci_addr *address, uint32_t timeout_ms)
{
	int rc;

	attach->deadline = cs_deadline_after(timeout_ms);
	attach->poller = spdk_poller_register_named(attach_late, attach, CS_POLL_US, "corriente_virtio_attach");
	probe_begins();
	rc = attach->poller == NULL ? -ENOMEM :
	     bdev_virtio_pci_scsi_dev_create(attach->name, address, scanned, attach);
	probe_ends(rc == 0);
	if (rc != 0) {
		/* SPDK answers 1 when no driver took the function. */
		attach_answer(attach, NULL, 0, g_reset_rc == -EPERM ? -EPERM : rc < 0 ? rc : -ENODEV);
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
