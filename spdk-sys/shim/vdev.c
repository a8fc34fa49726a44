/* Bdevs whose I/O is served by Rust: registration, channels, and access to an I/O in flight. */
#include "internal.h"

struct cs_vdev {
	struct spdk_bdev bdev;
	struct cs_vdev_ops ops;
	void *device;
	cs_done_cb destroyed;
	void *destroyed_arg;
};

static int
module_init(void)
{
	return 0;
}

static void
module_fini(void)
{
}

static int
io_context_size(void)
{
	return CS_VDEV_IO_CONTEXT;
}

static struct spdk_bdev_module g_module = {
	.name = "corriente",
	.module_init = module_init,
	.module_fini = module_fini,
	.get_ctx_size = io_context_size,
};
SPDK_BDEV_MODULE_REGISTER(corriente, &g_module)

static int
channel_create(void *io_device, void *state)
{
	struct cs_vdev *vdev = io_device;

	return vdev->ops.channel_create(vdev->device, state);
}

static void
channel_destroy(void *io_device, void *state)
{
	struct cs_vdev *vdev = io_device;

	vdev->ops.channel_destroy(vdev->device, state);
}

static void
io_device_gone(void *io_device)
{
	struct cs_vdev *vdev = io_device;

	vdev->ops.destruct(vdev->device);
	/* Frees nothing itself, but runs the unregister callback, after which nobody knows the vdev. */
	spdk_bdev_destruct_done(&vdev->bdev, 0);
	free(vdev->bdev.name);
	free(vdev->bdev.product_name);
	free(vdev);
}

static int
destruct(void *context)
{
	struct cs_vdev *vdev = context;

	spdk_io_device_unregister(vdev, io_device_gone);
	return 1;
}

static enum cs_io_type
from_spdk_type(int type)
{
	switch (type) {
	case SPDK_BDEV_IO_TYPE_READ:
		return CS_IO_READ;
	case SPDK_BDEV_IO_TYPE_WRITE:
		return CS_IO_WRITE;
	case SPDK_BDEV_IO_TYPE_UNMAP:
		return CS_IO_UNMAP;
	case SPDK_BDEV_IO_TYPE_FLUSH:
		return CS_IO_FLUSH;
	case SPDK_BDEV_IO_TYPE_RESET:
		return CS_IO_RESET;
	case SPDK_BDEV_IO_TYPE_WRITE_ZEROES:
		return CS_IO_WRITE_ZEROES;
	default:
		return CS_IO_OTHER;
	}
}

static void
submit(struct spdk_io_channel *channel, struct spdk_bdev_io *io)
{
	struct cs_vdev *vdev = io->bdev->ctxt;
	struct cs_vio vio = {
		.io = io,
		.context = io->driver_ctx,
		.iovs = io->u.bdev.iovs,
		.iov_count = io->u.bdev.iovcnt,
		.type = from_spdk_type(io->type),
		.offset_blocks = io->u.bdev.offset_blocks,
		.block_count = io->u.bdev.num_blocks,
	};

	vio.needs_buffer = vio.type == CS_IO_READ &&
			   (vio.iovs == NULL || vio.iovs[0].iov_base == NULL);
	vdev->ops.submit(vdev->device, spdk_io_channel_get_ctx(channel), &vio);
}

static bool
io_type_supported(void *context, enum spdk_bdev_io_type type)
{
	struct cs_vdev *vdev = context;
	enum cs_io_type own = from_spdk_type(type);

	return own != CS_IO_OTHER && vdev->ops.supports(vdev->device, own);
}

static struct spdk_io_channel *
get_io_channel(void *context)
{
	return spdk_get_io_channel(context);
}

static const struct spdk_bdev_fn_table g_functions = {
	.destruct = destruct,
	.submit_request = submit,
	.io_type_supported = io_type_supported,
	.get_io_channel = get_io_channel,
};

int
cs_vdev_create(const struct cs_vdev_config *config, const struct cs_vdev_ops *ops, void *device,
	       struct cs_vdev **out)
{
	struct cs_vdev *vdev = calloc(1, sizeof(*vdev));
	int rc;

	if (vdev == NULL) {
		return -ENOMEM;
	}
	vdev->ops = *ops;
	vdev->device = device;
	vdev->bdev.ctxt = vdev;
	vdev->bdev.name = strdup(config->name);
	vdev->bdev.product_name = strdup(config->product);
	vdev->bdev.blocklen = config->block_size;
	vdev->bdev.blockcnt = config->block_count;
	vdev->bdev.module = &g_module;
	vdev->bdev.fn_table = &g_functions;
	memcpy(&vdev->bdev.uuid, config->uuid, sizeof(config->uuid));
	if (vdev->bdev.name == NULL || vdev->bdev.product_name == NULL) {
		rc = -ENOMEM;
		goto failed;
	}
	spdk_io_device_register(vdev, channel_create, channel_destroy, ops->channel_size,
				config->name);
	rc = spdk_bdev_register(&vdev->bdev);
	if (rc != 0) {
		spdk_io_device_unregister(vdev, NULL);
		goto failed;
	}
	*out = vdev;
	return 0;
failed:
	free(vdev->bdev.name);
	free(vdev->bdev.product_name);
	free(vdev);
	return rc;
}

void
cs_vdev_destroy(struct cs_vdev *vdev, cs_done_cb cb, void *arg)
{
	spdk_bdev_unregister(&vdev->bdev, cb, arg);
}

const char *
cs_vdev_name(const struct cs_vdev *vdev)
{
	return spdk_bdev_get_name(&vdev->bdev);
}

int
cs_vdev_resize(struct cs_vdev *vdev, uint64_t block_count)
{
	return spdk_bdev_notify_blockcnt_change(&vdev->bdev, block_count);
}

struct visit_context {
	void (*visit)(void *arg, void *channel);
	void *arg;
	cs_done_cb cb;
};

static void
visit_channel(struct spdk_io_channel_iter *i)
{
	struct visit_context *context = spdk_io_channel_iter_get_ctx(i);

	context->visit(context->arg,
		       spdk_io_channel_get_ctx(spdk_io_channel_iter_get_channel(i)));
	spdk_for_each_channel_continue(i, 0);
}

static void
visit_done(struct spdk_io_channel_iter *i, int status)
{
	struct visit_context *context = spdk_io_channel_iter_get_ctx(i);

	context->cb(context->arg, status);
	free(context);
}

void
cs_vdev_for_each_channel(struct cs_vdev *vdev, void (*visit)(void *arg, void *channel), void *arg,
			 cs_done_cb cb)
{
	struct visit_context *context = calloc(1, sizeof(*context));

	if (context == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	context->visit = visit;
	context->arg = arg;
	context->cb = cb;
	spdk_for_each_channel(vdev, visit_channel, context, visit_done);
}

struct iovec *
cs_vio_iovs(const struct spdk_bdev_io *io, int *count)
{
	*count = io->u.bdev.iovcnt;
	return io->u.bdev.iovs;
}

void *
cs_vio_context(struct spdk_bdev_io *io)
{
	return io->driver_ctx;
}

void
cs_vio_get_buffer(struct spdk_bdev_io *io,
		  void (*cb)(struct spdk_io_channel *channel, struct spdk_bdev_io *io, bool success))
{
	spdk_bdev_io_get_buf(io, cb, io->u.bdev.num_blocks * io->bdev->blocklen);
}

void
cs_vio_complete(struct spdk_bdev_io *io, bool success)
{
	spdk_bdev_io_complete(io, success ? SPDK_BDEV_IO_STATUS_SUCCESS : SPDK_BDEV_IO_STATUS_FAILED);
}

void
cs_vio_complete_nvme(struct spdk_bdev_io *io, int sct, int sc)
{
	spdk_bdev_io_complete_nvme_status(io, 0, sct, sc);
}
