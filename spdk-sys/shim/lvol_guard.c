/*
 * Holds SPDK 20.07's lvols right where that release is wrong; compiled to nothing on newer ones.
 *
 * Four faults, all found in its blobstore and mended in later releases:
 * 1. An I/O looks twice whether its cluster is allocated: once for the address, once for the path. When the
 *    metadata thread enters the cluster in between, an I/O of another thread goes to an address that
 *    was meant for the parent: it reads or overwrites a foreign place of the disk.
 *    (mended in 20.10)
 * 2. The load of a store that was put away in order forgets to size the bitmap of open blobs, so no blob is ever
 *    found to be open: each clone opens its parent anew, and a merge works on blobs of its own, not on those
 *    that serve I/O. And all lvols are opened at once, so that a parent could be opened twice even
 *    with the bitmap. The next merge may start from a stale blob and lose the data of clusters that
 *    only the other has. (mended in 20.10)
 * 3. A clone that was grown reads beyond the end of its smaller parent and gets an I/O error.
 *    (mended in 22.09)
 * 4. The load of a store that was not put away in order counts as metadata only as many clusters as the table of pages
 *    is long, not what stands before it. The last cluster of that table then counts as free, is given to
 *    an lvol, and the two overwrite each other. The count of free clusters may be wrong beside that, as a cluster
 *    found twice is counted twice. What was counted so is stored when the store is put away.
 *    (right in 24.09)
 */
#include "lvs.h"

#if CS_SPDK_SINCE(23, 9)

int
cs_guard_loaded(struct spdk_lvol_store *lvs)
{
	(void)lvs;
	return 0;
}

void
cs_guard_lvols(struct spdk_lvol_store *lvs)
{
	(void)lvs;
}

#else

#include "spdk/bit_array.h"
#include "spdk/blob.h"
#include "spdk/likely.h"
/* Private; see lvol.c. Here also `blob.back_bs_dev`, `bs.open_blobids` and `bs.md_thread` are used. */
#include "blob/blobstore.h"

/* ------------------------------------------------------------------ fault 1: a second look */

/* I/Os run on the metadata thread for others at a time; its channel has 512 requests in all. */
#define MAX_FORWARDED 64

struct forwarded {
	STAILQ_ENTRY(forwarded) link;
	struct spdk_bdev_io *io;
	struct spdk_blob *blob;
	struct spdk_thread *origin;
	int rc;
};

/* Of the metadata thread alone. */
static STAILQ_HEAD(, forwarded) g_waiting = STAILQ_HEAD_INITIALIZER(g_waiting);
static uint32_t g_running;

static const struct spdk_bdev_fn_table *g_original;
static struct spdk_bdev_fn_table g_guarded;

static void receive_forwarded(void *context);

static void
forwarded_complete(void *context)
{
	struct forwarded *forwarded = context;
	struct spdk_bdev_io *io = forwarded->io;
	int rc = forwarded->rc;

	free(forwarded);
	spdk_bdev_io_complete(io, rc == 0 ? SPDK_BDEV_IO_STATUS_SUCCESS : SPDK_BDEV_IO_STATUS_FAILED);
}

/* By message, not by call: a read of nothing completes at once, and many of them would nest. */
static void
run_next(void *context)
{
	struct forwarded *next = STAILQ_FIRST(&g_waiting);

	(void)context;
	if (next != NULL) {
		STAILQ_REMOVE_HEAD(&g_waiting, link);
		receive_forwarded(next);
	}
}

static void
forwarded_done(void *context, int rc)
{
	struct forwarded *forwarded = context;

	g_running--;
	if (rc == -ENOMEM) {
		/* The channel's requests are used up; they come free as other I/O ends. */
		spdk_thread_send_msg(spdk_get_thread(), receive_forwarded, forwarded);
	} else {
		forwarded->rc = rc;
		spdk_thread_send_msg(forwarded->origin, forwarded_complete, forwarded);
	}
	if (!STAILQ_EMPTY(&g_waiting)) {
		spdk_thread_send_msg(spdk_get_thread(), run_next, NULL);
	}
}

static void
run_forwarded(struct forwarded *forwarded)
{
	struct spdk_bdev_io *io = forwarded->io;
	struct spdk_blob *blob = forwarded->blob;
	/* The store's own channel of this thread, which lives as long as the store is loaded. */
	struct spdk_io_channel *channel = blob->bs->md_channel;
	uint64_t offset = io->u.bdev.offset_blocks;
	uint64_t count = io->u.bdev.num_blocks;

	g_running++;
	switch (io->type) {
	case SPDK_BDEV_IO_TYPE_READ:
		spdk_blob_io_readv(blob, channel, io->u.bdev.iovs, io->u.bdev.iovcnt, offset, count,
				   forwarded_done, forwarded);
		break;
	case SPDK_BDEV_IO_TYPE_WRITE:
		spdk_blob_io_writev(blob, channel, io->u.bdev.iovs, io->u.bdev.iovcnt, offset, count,
				    forwarded_done, forwarded);
		break;
	case SPDK_BDEV_IO_TYPE_UNMAP:
		spdk_blob_io_unmap(blob, channel, offset, count, forwarded_done, forwarded);
		break;
	case SPDK_BDEV_IO_TYPE_WRITE_ZEROES:
		spdk_blob_io_write_zeroes(blob, channel, offset, count, forwarded_done, forwarded);
		break;
	default:
		forwarded_done(forwarded, -ENOTSUP);
		break;
	}
}

static void
receive_forwarded(void *context)
{
	struct forwarded *forwarded = context;

	if (g_running >= MAX_FORWARDED) {
		STAILQ_INSERT_TAIL(&g_waiting, forwarded, link);
	} else {
		run_forwarded(forwarded);
	}
}

static void
forward(struct spdk_bdev_io *io)
{
	struct spdk_lvol *lvol = io->bdev->ctxt;
	struct forwarded *forwarded = calloc(1, sizeof(*forwarded));

	if (forwarded == NULL) {
		spdk_bdev_io_complete(io, SPDK_BDEV_IO_STATUS_FAILED);
		return;
	}
	forwarded->io = io;
	forwarded->blob = lvol->blob;
	forwarded->origin = spdk_get_thread();
	spdk_thread_send_msg(lvol->blob->bs->md_thread, receive_forwarded, forwarded);
}

static void
read_has_buffer(struct spdk_io_channel *channel, struct spdk_bdev_io *io, bool success)
{
	(void)channel;
	if (success) {
		forward(io);
	} else {
		spdk_bdev_io_complete(io, SPDK_BDEV_IO_STATUS_FAILED);
	}
}

/* Once allocated, a cluster stays so until the blob's I/O is frozen, and that waits for this thread. */
static bool
is_allocated(const struct spdk_blob *blob, const struct spdk_bdev_io *io)
{
	uint64_t blocks_per_cluster = blob->bs->cluster_sz / io->bdev->blocklen;
	uint64_t first = io->u.bdev.offset_blocks / blocks_per_cluster;
	uint64_t last = (io->u.bdev.offset_blocks + io->u.bdev.num_blocks - 1) / blocks_per_cluster;

	for (uint64_t i = first; i <= last; i++) {
		if (i >= blob->active.num_clusters || blob->active.clusters[i] == 0) {
			return false;
		}
	}
	return true;
}

static bool
needs_metadata_thread(const struct spdk_bdev_io *io)
{
	const struct spdk_lvol *lvol = io->bdev->ctxt;

	switch (io->type) {
	case SPDK_BDEV_IO_TYPE_READ:
		/* A snapshot's map does not change while it can be read. */
		if (lvol->blob->data_ro) {
			return false;
		}
	/* FALLTHROUGH */
	case SPDK_BDEV_IO_TYPE_WRITE:
	case SPDK_BDEV_IO_TYPE_UNMAP:
	case SPDK_BDEV_IO_TYPE_WRITE_ZEROES:
		break;
	default:
		return false;
	}
	return io->u.bdev.num_blocks > 0 && spdk_get_thread() != lvol->blob->bs->md_thread &&
	       !is_allocated(lvol->blob, io);
}

static void
guarded_submit(struct spdk_io_channel *channel, struct spdk_bdev_io *io)
{
	if (spdk_likely(!needs_metadata_thread(io))) {
		g_original->submit_request(channel, io);
	} else if (io->type == SPDK_BDEV_IO_TYPE_READ) {
		spdk_bdev_io_get_buf(io, read_has_buffer, io->u.bdev.num_blocks * io->bdev->blocklen);
	} else {
		forward(io);
	}
}

static void
guard_bdev(struct spdk_bdev *bdev)
{
	if (bdev->fn_table == &g_guarded) {
		return;
	}
	if (g_original == NULL) {
		g_original = bdev->fn_table;
		g_guarded = *g_original;
		g_guarded.submit_request = guarded_submit;
	}
	bdev->fn_table = &g_guarded;
}

/* ------------------------------------------------------------------ fault 2: two blobs of one id */

static void
duplicate_closed(void *context, int rc)
{
	(void)context;
	if (rc != 0) {
		SPDK_ERRLOG("A second blob of a snapshot could not be closed: %d\n", rc);
	}
}

static struct spdk_lvol *
find_blob(struct spdk_lvol_store *lvs, spdk_blob_id id)
{
	struct spdk_lvol *lvol;

	TAILQ_FOREACH(lvol, &lvs->lvols, link) {
		if (lvol->blob_id == id && cs_lvol_is_live(lvol)) {
			return lvol;
		}
	}
	return NULL;
}

/*
 * Has each clone read from the blob that the parent's lvol holds, closes any other of that id, and marks
 * what is open in a bitmap that is large enough.
 */
static int
join_duplicates(struct spdk_lvol_store *lvs)
{
	struct spdk_blob_store *store = lvs->blobstore;
	struct spdk_blob_bs_dev *back;
	struct spdk_blob *other;
	struct spdk_lvol *lvol, *parent;

	if (spdk_bit_array_resize(&store->open_blobids, spdk_bit_array_capacity(store->used_blobids)) != 0) {
		return -ENOMEM;
	}
	TAILQ_FOREACH(lvol, &lvs->lvols, link) {
		if (!cs_lvol_is_live(lvol) || lvol->blob->parent_id == SPDK_BLOBID_INVALID) {
			continue;
		}
		parent = find_blob(lvs, lvol->blob->parent_id);
		back = (struct spdk_blob_bs_dev *)lvol->blob->back_bs_dev;
		if (parent == NULL || back->blob == parent->blob) {
			continue;
		}
		other = back->blob;
		back->blob = parent->blob;
		parent->blob->open_ref++;
		spdk_blob_close(other, duplicate_closed, NULL);
	}
	/* Closing the last of a duplicate marks its id as closed, though the lvol's own blob is open. */
	TAILQ_FOREACH(lvol, &lvs->lvols, link) {
		if (cs_lvol_is_live(lvol)) {
			spdk_bit_array_set(store->open_blobids, lvol->blob_id);
		}
	}
	return 0;
}

/* ------------------------------------------------------------------ fault 4: metadata that counts as free */

/*
 * After every load, as an orderly one may bring what an earlier one counted wrong. The lvols of the store are not
 * known to anybody yet, so nothing takes or gives back a cluster meanwhile.
 */
static void
claim_metadata(struct spdk_blob_store *store)
{
	uint64_t clusters = spdk_divide_round_up((uint64_t)store->md_start + store->md_len, store->pages_per_cluster);

	for (uint64_t i = 0; i < clusters; i++) {
		spdk_bit_array_set(store->used_clusters, i);
	}
	store->num_free_clusters = spdk_bit_array_count_clear(store->used_clusters);
}

int
cs_guard_loaded(struct spdk_lvol_store *lvs)
{
	claim_metadata(lvs->blobstore);
	return join_duplicates(lvs);
}

/* ------------------------------------------------------------------ fault 3: beyond the parent's end */

static void (*g_back_read)(struct spdk_bs_dev *dev, struct spdk_io_channel *channel, void *payload,
			   uint64_t lba, uint32_t lba_count, struct spdk_bs_dev_cb_args *cb_args);
static void (*g_back_readv)(struct spdk_bs_dev *dev, struct spdk_io_channel *channel, struct iovec *iov,
			    int iovcnt, uint64_t lba, uint32_t lba_count,
			    struct spdk_bs_dev_cb_args *cb_args);

/* An I/O stays within a cluster and sizes are whole clusters, so it lies on one side of the end. */
static void
bounded_read(struct spdk_bs_dev *dev, struct spdk_io_channel *channel, void *payload, uint64_t lba,
	     uint32_t lba_count, struct spdk_bs_dev_cb_args *cb_args)
{
	if (lba < dev->blockcnt) {
		g_back_read(dev, channel, payload, lba, lba_count, cb_args);
		return;
	}
	memset(payload, 0, (size_t)lba_count * dev->blocklen);
	cb_args->cb_fn(cb_args->channel, cb_args->cb_arg, 0);
}

static void
bounded_readv(struct spdk_bs_dev *dev, struct spdk_io_channel *channel, struct iovec *iov, int iovcnt,
	      uint64_t lba, uint32_t lba_count, struct spdk_bs_dev_cb_args *cb_args)
{
	if (lba < dev->blockcnt) {
		g_back_readv(dev, channel, iov, iovcnt, lba, lba_count, cb_args);
		return;
	}
	for (int i = 0; i < iovcnt; i++) {
		memset(iov[i].iov_base, 0, iov[i].iov_len);
	}
	cb_args->cb_fn(cb_args->channel, cb_args->cb_arg, 0);
}

static void
guard_parent_reads(struct spdk_blob *blob)
{
	struct spdk_bs_dev *back = blob->back_bs_dev;

	/* Without a parent the back device is a shared one that reads zeroes everywhere. */
	if (blob->parent_id == SPDK_BLOBID_INVALID || back == NULL || back->read == bounded_read) {
		return;
	}
	g_back_read = back->read;
	g_back_readv = back->readv;
	back->read = bounded_read;
	back->readv = bounded_readv;
}

void
cs_guard_lvols(struct spdk_lvol_store *lvs)
{
	struct spdk_lvol *lvol;

	TAILQ_FOREACH(lvol, &lvs->lvols, link) {
		if (!cs_lvol_is_live(lvol)) {
			continue;
		}
		guard_parent_reads(lvol->blob);
		if (lvol->bdev != NULL) {
			guard_bdev(lvol->bdev);
		}
	}
}

#endif
