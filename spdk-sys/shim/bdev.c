/* Using bdevs: open, describe, list, delete, and the parts of I/O that differ between releases. */
#include "internal.h"

#include "spdk/nvme_spec.h"

static cs_bdev_event_cb g_event_cb;

enum spdk_bdev_io_type
cs_spdk_io_type(enum cs_io_type type)
{
	switch (type) {
	case CS_IO_READ:
		return SPDK_BDEV_IO_TYPE_READ;
	case CS_IO_WRITE:
		return SPDK_BDEV_IO_TYPE_WRITE;
	case CS_IO_UNMAP:
		return SPDK_BDEV_IO_TYPE_UNMAP;
	case CS_IO_FLUSH:
		return SPDK_BDEV_IO_TYPE_FLUSH;
	case CS_IO_RESET:
		return SPDK_BDEV_IO_TYPE_RESET;
	case CS_IO_WRITE_ZEROES:
		return SPDK_BDEV_IO_TYPE_WRITE_ZEROES;
	default:
		return SPDK_BDEV_IO_TYPE_INVALID;
	}
}

static void
bdev_event(enum spdk_bdev_event_type type, struct spdk_bdev *bdev, void *arg)
{
	enum cs_bdev_event event = CS_BDEV_OTHER;

	(void)bdev;
	if (type == SPDK_BDEV_EVENT_REMOVE) {
		event = CS_BDEV_REMOVE;
	} else if (type == SPDK_BDEV_EVENT_RESIZE) {
		event = CS_BDEV_RESIZE;
	}
	g_event_cb(arg, event);
}

void
cs_bdev_event_hook(cs_bdev_event_cb cb)
{
	g_event_cb = cb;
}

int
cs_bdev_open(const char *name, bool write, void *arg, struct spdk_bdev_desc **out)
{
	/* Releases differ in the errno of this mistake. */
	if (spdk_bdev_get_by_name(name) == NULL) {
		return -ENODEV;
	}
	return spdk_bdev_open_ext(name, write, bdev_event, arg, out);
}

bool
cs_bdev_is_claimed(const struct spdk_bdev *bdev)
{
#if CS_SPDK_SINCE(23, 5)
	return bdev->internal.claim_type != SPDK_BDEV_CLAIM_NONE;
#else
	return bdev->internal.claim_module != NULL;
#endif
}

bool
cs_bdev_is_open(struct spdk_bdev *bdev)
{
	return !TAILQ_EMPTY(&bdev->internal.open_descs);
}

static void
fill_info(struct spdk_bdev *bdev, struct cs_bdev_info *out)
{
	memset(out, 0, sizeof(*out));
	out->name = spdk_bdev_get_name(bdev);
	out->product = spdk_bdev_get_product_name(bdev);
	memcpy(out->uuid, spdk_bdev_get_uuid(bdev), sizeof(out->uuid));
	out->block_size = spdk_bdev_get_block_size(bdev);
	out->block_count = spdk_bdev_get_num_blocks(bdev);
	out->write_unit_blocks = spdk_bdev_get_write_unit_size(bdev);
	out->alignment = spdk_bdev_get_buf_align(bdev);
	for (int type = CS_IO_READ; type <= CS_IO_WRITE_ZEROES; type++) {
		if (spdk_bdev_io_type_supported(bdev, cs_spdk_io_type(type))) {
			out->io_types |= 1u << type;
		}
	}
	out->claimed = cs_bdev_is_claimed(bdev);
}

void
cs_bdev_desc_info(struct spdk_bdev_desc *desc, struct cs_bdev_info *out)
{
	fill_info(spdk_bdev_desc_get_bdev(desc), out);
}

int
cs_bdev_info(const char *name, struct cs_bdev_info *out)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);

	if (bdev == NULL) {
		return -ENODEV;
	}
	fill_info(bdev, out);
	return 0;
}

void
cs_bdev_aliases(const char *name, cs_name_cb cb, void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);
	struct spdk_bdev_alias *alias;

	if (bdev == NULL) {
		return;
	}
	TAILQ_FOREACH(alias, spdk_bdev_get_aliases(bdev), tailq) {
#if CS_SPDK_SINCE(21, 7)
		cb(arg, alias->alias.name);
#else
		cb(arg, alias->alias);
#endif
	}
}

void
cs_bdev_list(cs_bdev_info_cb cb, void *arg)
{
	struct spdk_bdev *bdev;
	struct cs_bdev_info info;

	for (bdev = spdk_bdev_first(); bdev != NULL; bdev = spdk_bdev_next(bdev)) {
		fill_info(bdev, &info);
		cb(arg, &info);
	}
}

void
cs_bdev_delete(const char *name, cs_done_cb cb, void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);

	if (bdev == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	spdk_bdev_unregister(bdev, cb, arg);
}

#if CS_SPDK_SINCE(24, 1)
struct settle {
	cs_done_cb cb;
	void *arg;
};

static void
settled(void *context)
{
	struct settle *settle = context;

	settle->cb(settle->arg, 0);
	free(settle);
}

static void
examined(void *context)
{
	/* The pollers that close the bdevs may have their turn after ours, but in the same round. */
	spdk_thread_send_msg(spdk_get_thread(), settled, context);
}

void
cs_bdev_settle(cs_done_cb cb, void *arg)
{
	struct settle *settle = calloc(1, sizeof(*settle));

	if (settle == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	settle->cb = cb;
	settle->arg = arg;
	if (spdk_bdev_wait_for_examine(examined, settle) != 0) {
		free(settle);
		cb(arg, -ENOMEM);
	}
}
#else
void
cs_bdev_settle(cs_done_cb cb, void *arg)
{
	cb(arg, 0);
}
#endif

struct wait_context {
	struct spdk_bdev_io_wait_entry entry;
	void (*cb)(void *arg);
	void *arg;
};

static void
io_available(void *arg)
{
	struct wait_context *wait = arg;
	void (*cb)(void *arg) = wait->cb;
	void *cb_arg = wait->arg;

	free(wait);
	cb(cb_arg);
}

int
cs_bdev_wait_for_io(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel,
		    void (*cb)(void *arg), void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_desc_get_bdev(desc);
	struct wait_context *wait = calloc(1, sizeof(*wait));
	int rc;

	if (wait == NULL) {
		return -ENOMEM;
	}
	wait->cb = cb;
	wait->arg = arg;
	wait->entry.bdev = bdev;
	wait->entry.cb_fn = io_available;
	wait->entry.cb_arg = wait;
	rc = spdk_bdev_queue_io_wait(bdev, channel, &wait->entry);
	if (rc != 0) {
		free(wait);
	}
	return rc;
}

void
cs_bdev_io_status(const struct spdk_bdev_io *io, int *sct, int *sc)
{
	uint32_t cdw0;

	spdk_bdev_io_get_nvme_status(io, &cdw0, sct, sc);
}

int
cs_bdev_nvme_flush(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel,
		   void (*cb)(struct spdk_bdev_io *io, bool success, void *arg), void *arg)
{
	struct spdk_nvme_cmd command = {};

	/* bdev_nvme puts its own namespace id in. */
	command.opc = SPDK_NVME_OPC_FLUSH;
	return spdk_bdev_nvme_io_passthru(desc, channel, &command, NULL, 0, cb, arg);
}

int
cs_bdev_nvme_admin_read(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel, uint8_t opcode,
			uint32_t namespace_id, uint32_t cdw10, void *buffer, size_t size,
			void (*cb)(struct spdk_bdev_io *io, bool success, void *arg), void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_desc_get_bdev(desc);
	struct spdk_nvme_cmd command = {};

	if (!spdk_bdev_io_type_supported(bdev, SPDK_BDEV_IO_TYPE_NVME_ADMIN)) {
		return -ENOTSUP;
	}
	command.opc = opcode;
	command.nsid = namespace_id;
	command.cdw10 = cdw10;
	return spdk_bdev_nvme_admin_passthru(desc, channel, &command, buffer, size, cb, arg);
}

struct stat_context {
	cs_bdev_stat_cb cb;
	void *arg;
	struct spdk_bdev_io_stat stat;
};

static void
stat_done(struct spdk_bdev *bdev, struct spdk_bdev_io_stat *stat, void *arg, int rc)
{
	struct stat_context *context = arg;
	struct cs_bdev_stat out = {};

	(void)bdev;
	if (rc == 0) {
		out.bytes_read = stat->bytes_read;
		out.reads = stat->num_read_ops;
		out.bytes_written = stat->bytes_written;
		out.writes = stat->num_write_ops;
		out.bytes_unmapped = stat->bytes_unmapped;
		out.unmaps = stat->num_unmap_ops;
		out.read_ticks = stat->read_latency_ticks;
		out.write_ticks = stat->write_latency_ticks;
	}
	context->cb(context->arg, &out, rc);
	free(context);
}

void
cs_bdev_stat(const char *name, cs_bdev_stat_cb cb, void *arg)
{
	struct cs_bdev_stat none = {};
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);
	struct stat_context *context;

	if (bdev == NULL) {
		cb(arg, &none, -ENODEV);
		return;
	}
	context = calloc(1, sizeof(*context));
	if (context == NULL) {
		cb(arg, &none, -ENOMEM);
		return;
	}
	context->cb = cb;
	context->arg = arg;
#if CS_SPDK_SINCE(25, 5)
	spdk_bdev_get_device_stat(bdev, &context->stat, SPDK_BDEV_RESET_STAT_NONE, stat_done, context);
#else
	spdk_bdev_get_device_stat(bdev, &context->stat, stat_done, context);
#endif
}
