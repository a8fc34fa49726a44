/*
 * The NVMe initiator: attach over TCP or PCIe, detach, and the latter from a peer that no longer answers.
 *
 * `bdev/nvme/...` are private to SPDK's bdev_nvme module. Up to 24.05 no public header offers attach or
 * detach at all; and no release offers what a lost peer takes: to fail its I/O without talking to it.
 */
#include "internal.h"

#include "spdk/nvme.h"
#include "spdk/string.h"
#include "bdev/nvme/bdev_nvme.h"
#if CS_SPDK_SINCE(24, 9)
#include "spdk/module/bdev/nvme.h"
#else
#include "bdev/nvme/common.h"
#endif

int
cs_nvme_configure(const struct cs_nvme_options *options)
{
	struct spdk_bdev_nvme_opts opts = {};

#if CS_SPDK_SINCE(25, 5)
	spdk_bdev_nvme_get_opts(&opts, sizeof(opts));
#else
	bdev_nvme_get_opts(&opts);
#endif
	opts.timeout_us = 0;
	opts.action_on_timeout = SPDK_BDEV_NVME_TIMEOUT_ACTION_NONE;
	opts.nvme_adminq_poll_period_us = options->admin_poll_us;
#if CS_SPDK_SINCE(24, 9)
	opts.timeout_admin_us = 0;
	opts.transport_retry_count = options->retry_count;
	/* A mirror wants to hear of a failed member at once. */
	opts.bdev_retry_count = 0;
	opts.keep_alive_timeout_ms = options->keep_alive_ms;
	opts.ctrlr_loss_timeout_sec = options->controller_loss_s;
	opts.reconnect_delay_sec = options->reconnect_delay_s;
	opts.fast_io_fail_timeout_sec = options->fast_io_fail_s;
#else
	opts.retry_count = options->retry_count;
#endif
#if CS_SPDK_SINCE(25, 9)
	opts.enable_flush = true;
#endif
#if CS_SPDK_SINCE(25, 5)
	return spdk_bdev_nvme_set_opts(&opts);
#else
	return bdev_nvme_set_opts(&opts);
#endif
}

/* ------------------------------------------------------------------ detach */

struct detach {
	char *name;
	bool peer_lost;
	uint64_t deadline;
	struct spdk_poller *poller;
	/* NULL when nobody waits. */
	cs_done_cb cb;
	void *arg;
};

static void
detach_done(struct detach *detach, int rc)
{
	spdk_poller_unregister(&detach->poller);
	if (detach->cb != NULL) {
		detach->cb(detach->arg, rc);
	}
	free(detach->name);
	free(detach);
}

bool
cs_nvme_is_attached(const char *name)
{
	return nvme_bdev_ctrlr_get_by_name(name) != NULL;
}

static int
detach_poll(void *context)
{
	struct detach *detach = context;

	if (!cs_nvme_is_attached(detach->name)) {
		detach_done(detach, 0);
		return SPDK_POLLER_BUSY;
	}
	if (cs_deadline_passed(detach->deadline)) {
		detach_done(detach, -ETIMEDOUT);
		return SPDK_POLLER_BUSY;
	}
	return SPDK_POLLER_IDLE;
}

/*
 * Begins to wait for the end of a delete, before that begins. 20.07 has no callback for it; the last that any release
 * does is to take the controller off its list. False when `detach` is over and gone.
 */
static bool
detach_watch(struct detach *detach)
{
	detach->poller = spdk_poller_register_named(detach_poll, detach, CS_POLL_US, "corriente_nvme_detach");
	if (detach->poller == NULL) {
		detach_done(detach, -ENOMEM);
		return false;
	}
	return true;
}

#if CS_SPDK_SINCE(24, 9)

/* All zero stands for whatever path there is. */
static int
delete_controller(const char *name)
{
#if CS_SPDK_SINCE(26, 9)
	struct spdk_bdev_nvme_path_id path = {};

	return spdk_bdev_nvme_delete(name, &path, NULL, NULL);
#elif CS_SPDK_SINCE(25, 5)
	struct spdk_nvme_path_id path = {};

	return spdk_bdev_nvme_delete(name, &path, NULL, NULL);
#else
	struct nvme_path_id path = {};

	return bdev_nvme_delete(name, &path, NULL, NULL);
#endif
}

static void
drop_queue_pair(struct spdk_io_channel_iter *i)
{
	struct nvme_ctrlr_channel *channel = spdk_io_channel_get_ctx(spdk_io_channel_iter_get_channel(i));

	if (channel->qpair->qpair != NULL) {
		/* Closes the socket and fails what was in flight, without a word to the peer. */
		spdk_nvme_ctrlr_disconnect_io_qpair(channel->qpair->qpair);
	}
	spdk_for_each_channel_continue(i, 0);
}

static void
queue_pairs_dropped(struct spdk_io_channel_iter *i, int status)
{
	(void)i;
	(void)status;
}

static void
detach_start(struct detach *detach)
{
	struct nvme_ctrlr *controller = nvme_ctrlr_get_by_name(detach->name);
	bool peer_lost = detach->peer_lost;
	int rc;

	if (!detach_watch(detach)) {
		return;
	}
	/* Marks the controller at once, so that no reset begins any more. The rest is done in later messages. */
	rc = delete_controller(detach->name);
	if (rc != 0) {
		detach_done(detach, rc);
		return;
	}
	if (peer_lost && controller != NULL) {
		/* The peer is not asked to shut down, and a reset under way ends. Queues of I/O are each their thread's. */
		spdk_nvme_ctrlr_fail(controller->ctrlr);
		spdk_for_each_channel(controller, drop_queue_pair, NULL, queue_pairs_dropped);
	}
}

#else

static void
detach_delete(struct detach *detach)
{
	int rc;

	if (!detach_watch(detach)) {
		return;
	}
	rc = bdev_nvme_delete(detach->name);
	if (rc != 0) {
		detach_done(detach, rc);
	}
}

static void
drop_queue_pair(struct spdk_io_channel_iter *i)
{
	struct nvme_io_channel *channel = spdk_io_channel_get_ctx(spdk_io_channel_iter_get_channel(i));

	/* Closes the socket and fails what was in flight, without a word to the peer. */
	if (channel->qpair != NULL && spdk_nvme_ctrlr_free_io_qpair(channel->qpair) == 0) {
		/* bdev_nvme then refuses I/O as it does during a reset. */
		channel->qpair = NULL;
	}
	spdk_for_each_channel_continue(i, 0);
}

static void
queue_pairs_dropped(struct spdk_io_channel_iter *i, int status)
{
	struct detach *detach = spdk_io_channel_iter_get_ctx(i);
	struct nvme_bdev_ctrlr *controller = spdk_io_channel_iter_get_io_device(i);

	(void)status;
	pthread_mutex_lock(&g_bdev_nvme_mutex);
	controller->resetting = false;
	pthread_mutex_unlock(&g_bdev_nvme_mutex);
	/* Sets `destruct` before the admin poller can run, so no reset of the failed controller begins. */
	detach_delete(detach);
}

/*
 * To take a controller away 20.07 asks it to shut down and waits for the answer in a loop, and so does
 * a reset. A controller marked as failed is not asked; what its queues hold is failed here. `resetting`
 * keeps the module from resetting it meanwhile, as during a reset of its own.
 */
static int
detach_lost(void *context)
{
	struct detach *detach = context;
	struct nvme_bdev_ctrlr *controller = nvme_bdev_ctrlr_get_by_name(detach->name);
	bool resetting;

	if (controller == NULL) {
		detach_done(detach, 0);
		return SPDK_POLLER_BUSY;
	}
	pthread_mutex_lock(&g_bdev_nvme_mutex);
	resetting = controller->resetting;
	if (!resetting && !controller->destruct) {
		controller->resetting = true;
	}
	pthread_mutex_unlock(&g_bdev_nvme_mutex);
	if (resetting || controller->destruct) {
		/* Its turn comes when that reset is over, or the controller is gone. */
		if (cs_deadline_passed(detach->deadline)) {
			detach_done(detach, -ETIMEDOUT);
			return SPDK_POLLER_BUSY;
		}
		return SPDK_POLLER_IDLE;
	}
	spdk_poller_unregister(&detach->poller);
	spdk_nvme_ctrlr_fail(controller->ctrlr);
	spdk_for_each_channel(controller, drop_queue_pair, detach, queue_pairs_dropped);
	return SPDK_POLLER_BUSY;
}

static void
detach_start(struct detach *detach)
{
	if (!detach->peer_lost) {
		detach_delete(detach);
		return;
	}
	detach->poller = spdk_poller_register_named(detach_lost, detach, CS_POLL_US, "corriente_nvme_lost");
	if (detach->poller == NULL) {
		detach_done(detach, -ENOMEM);
		return;
	}
	detach_lost(detach);
}

#endif

void
cs_nvme_detach(const char *name, bool peer_lost, uint32_t timeout_ms, cs_done_cb cb, void *arg)
{
	struct detach *detach;

	if (!cs_nvme_is_attached(name)) {
		cb(arg, -ENODEV);
		return;
	}
	detach = calloc(1, sizeof(*detach));
	if (detach == NULL || (detach->name = strdup(name)) == NULL) {
		free(detach);
		cb(arg, -ENOMEM);
		return;
	}
	detach->peer_lost = peer_lost;
	detach->deadline = cs_deadline_after(timeout_ms);
	detach->cb = cb;
	detach->arg = arg;
	detach_start(detach);
}

/* ------------------------------------------------------------------ attach */

static enum cs_fault_attach g_fault;

void
cs_fault_attach(enum cs_fault_attach fault)
{
	g_fault = fault;
}

struct attach {
	char name[256];
	struct spdk_nvme_transport_id id;
	const char *names[CS_MAX_NAMES];
	uint64_t deadline;
	struct spdk_poller *poller;
	/* NULL once the waiter has been told that the time is over. */
	cs_nvme_attach_cb cb;
	void *arg;
};

static void
attach_answer(struct attach *attach, size_t count, int rc)
{
	cs_nvme_attach_cb cb = attach->cb;

	attach->cb = NULL;
	spdk_poller_unregister(&attach->poller);
	if (rc == 0 && g_fault != CS_FAULT_ATTACH_NONE) {
		switch (g_fault) {
		case CS_FAULT_ATTACH_NO_NAME:
			count = 0;
			break;
		case CS_FAULT_ATTACH_TWO_NAMES:
			attach->names[1] = "corriente-fault-second-bdev";
			count = 2;
			break;
		default:
			attach->names[0] = "";
			count = 1;
			break;
		}
		g_fault = CS_FAULT_ATTACH_NONE;
	}
	cb(attach->arg, attach->names, rc == 0 ? count : 0, rc);
}

struct spdk_nvme_ctrlr *
cs_nvme_driver_of(const char *name)
{
#if CS_SPDK_SINCE(24, 9)
	struct nvme_ctrlr *controller = nvme_ctrlr_get_by_name(name);
#else
	struct nvme_bdev_ctrlr *controller = nvme_bdev_ctrlr_get_by_name(name);
#endif

	return controller == NULL ? NULL : controller->ctrlr;
}

static void
notices_off(void *context, const struct spdk_nvme_cpl *completion)
{
	(void)context;
	if (spdk_nvme_cpl_is_error(completion)) {
		SPDK_WARNLOG("a peer did not turn its notices off\n");
	}
}

/*
 * To a notice of a changed namespace SPDK's driver asks for the namespace and waits for the answer in a loop, for as
 * long as the connection lasts: a peer that stops to answer there would stop this thread. Nobody waits for this one.
 */
static void
turn_notices_off(const char *name)
{
	struct spdk_nvme_ctrlr *driver = cs_nvme_driver_of(name);

	if (driver == NULL || spdk_nvme_ctrlr_cmd_set_feature(driver, SPDK_NVME_FEAT_ASYNC_EVENT_CONFIGURATION, 0, 0,
			NULL, 0, notices_off, NULL) != 0) {
		SPDK_WARNLOG("controller %s: the peer's notices stay on\n", name);
	}
}

static void
attached(void *context, size_t count, int rc)
{
	struct attach *attach = context;

	if (rc == 0 && attach->id.trtype == SPDK_NVME_TRANSPORT_TCP) {
		turn_notices_off(attach->name);
	}
	if (attach->cb != NULL) {
		attach_answer(attach, count, rc);
	} else if (rc == 0) {
		/* Too late: nobody knows of it, so it goes. */
		cs_nvme_detach(attach->name, false, 10000, cs_nobody_waits, NULL);
	}
	free(attach);
}

static int
attach_late(void *context)
{
	struct attach *attach = context;

	if (!cs_deadline_passed(attach->deadline)) {
		return SPDK_POLLER_IDLE;
	}
	/*
	 * 20.07 forgets its callback when a controller fails in its initialisation, and there is no way to tell
	 * that from one that still tries. So the context stays for a callback that may never come:
	 * SPDK holds on to its names and would write there.
	 */
	attach_answer(attach, 0, -ETIMEDOUT);
	return SPDK_POLLER_BUSY;
}

static int
make_id(const struct cs_nvme_target *target, struct spdk_nvme_transport_id *id)
{
	memset(id, 0, sizeof(*id));
	if (strlen(target->address) > SPDK_NVMF_TRADDR_MAX_LEN ||
	    (!target->pcie && (strlen(target->port) > SPDK_NVMF_TRSVCID_MAX_LEN ||
			       strlen(target->subsystem_nqn) > SPDK_NVMF_NQN_MAX_LEN ||
			       strlen(target->host_nqn) > SPDK_NVMF_NQN_MAX_LEN))) {
		return -ENAMETOOLONG;
	}
	spdk_nvme_trid_populate_transport(id, target->pcie ? SPDK_NVME_TRANSPORT_PCIE :
					  SPDK_NVME_TRANSPORT_TCP);
	snprintf(id->traddr, sizeof(id->traddr), "%s", target->address);
	if (!target->pcie) {
		id->adrfam = target->ipv6 ? SPDK_NVMF_ADRFAM_IPV6 : SPDK_NVMF_ADRFAM_IPV4;
		snprintf(id->trsvcid, sizeof(id->trsvcid), "%s", target->port);
		snprintf(id->subnqn, sizeof(id->subnqn), "%s", target->subsystem_nqn);
	}
	return 0;
}

static int
attach_start(struct attach *attach, const struct cs_nvme_target *target)
{
#if CS_SPDK_SINCE(24, 9)
	struct spdk_nvme_ctrlr_opts driver;
	/* The defaults leave the names of keys as they are. */
	struct spdk_bdev_nvme_ctrlr_opts controller = {};

	spdk_nvme_ctrlr_get_default_ctrlr_opts(&driver, sizeof(driver));
	spdk_bdev_nvme_get_default_ctrlr_opts(&controller);
	if (!target->pcie) {
		snprintf(driver.hostnqn, sizeof(driver.hostnqn), "%s", target->host_nqn);
	}
#if CS_SPDK_SINCE(25, 5)
	controller.multipath = false;
	return spdk_bdev_nvme_create(&attach->id, attach->name, attach->names, CS_MAX_NAMES, attached, attach,
				     &driver, &controller);
#else
	return spdk_bdev_nvme_create(&attach->id, attach->name, attach->names, CS_MAX_NAMES, attached, attach,
				     &driver, &controller, false);
#endif
#else
	struct spdk_nvme_host_id host = {};

	return bdev_nvme_create(&attach->id, &host, attach->name, attach->names, CS_MAX_NAMES,
				target->host_nqn, 0, attached, attach);
#endif
}

void
cs_nvme_attach(const struct cs_nvme_target *target, uint32_t timeout_ms, cs_nvme_attach_cb cb, void *arg)
{
	struct attach *attach;
	int rc;

	if (cs_nvme_is_attached(target->name)) {
		cb(arg, NULL, 0, -EEXIST);
		return;
	}
	attach = calloc(1, sizeof(*attach));
	if (attach == NULL) {
		cb(arg, NULL, 0, -ENOMEM);
		return;
	}
	attach->cb = cb;
	attach->arg = arg;
	attach->deadline = cs_deadline_after(timeout_ms);
	rc = strlen(target->name) < sizeof(attach->name) ? make_id(target, &attach->id) : -ENAMETOOLONG;
	if (rc == 0) {
		snprintf(attach->name, sizeof(attach->name), "%s", target->name);
		attach->poller = spdk_poller_register_named(attach_late, attach, CS_POLL_US,
				 "corriente_nvme_attach");
		rc = attach->poller == NULL ? -ENOMEM : attach_start(attach, target);
	}
	if (rc != 0) {
		attach_answer(attach, 0, rc);
		free(attach);
	}
}

/* ------------------------------------------------------------------ size */

#define NAMESPACE_ID 1

struct read_size {
	char *bdev;
	struct spdk_nvme_ns_data *answer;
	cs_done_cb cb;
	void *arg;
};

static void
read_size_over(struct read_size *read, int rc)
{
	read->cb(read->arg, rc);
	spdk_dma_free(read->answer);
	free(read->bdev);
	free(read);
}

static void
size_was_read(void *context, const struct spdk_nvme_cpl *completion)
{
	struct read_size *read = context;
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(read->bdev);
	int rc = 0;

	if (spdk_nvme_cpl_is_error(completion)) {
		rc = -EIO;
	} else if (bdev == NULL) {
		rc = -ENODEV;
	} else if (read->answer->nsze > spdk_bdev_get_num_blocks(bdev)) {
		rc = spdk_bdev_notify_blockcnt_change(bdev, read->answer->nsze);
	}
	read_size_over(read, rc);
}

void
cs_nvme_read_size(const char *name, const char *bdev, cs_done_cb cb, void *arg)
{
	struct spdk_nvme_ctrlr *driver = cs_nvme_driver_of(name);
	struct spdk_nvme_cmd command = {};
	struct read_size *read;
	int rc;

	if (driver == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	read = calloc(1, sizeof(*read));
	if (read == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	read->cb = cb;
	read->arg = arg;
	read->bdev = strdup(bdev);
	read->answer = spdk_dma_zmalloc(sizeof(*read->answer), 4096, NULL);
	if (read->bdev == NULL || read->answer == NULL) {
		read_size_over(read, -ENOMEM);
		return;
	}
	command.opc = SPDK_NVME_OPC_IDENTIFY;
	command.nsid = NAMESPACE_ID;
	command.cdw10 = SPDK_NVME_IDENTIFY_NS;
	rc = spdk_nvme_ctrlr_cmd_admin_raw(driver, &command, read->answer, sizeof(*read->answer), size_was_read, read);
	if (rc != 0) {
		read_size_over(read, rc);
	}
}
