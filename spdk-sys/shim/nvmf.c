/*
 * The NVMe-oF target: transport, subsystems, namespaces, listeners, hosts, changes of state.
 *
 * `nvmf/nvmf_internal.h` is private to SPDK's target, and this file is the only one to use it: no public
 * header tells a subsystem's state or whether hosts are connected, and 20.07 frees a controller twice when
 * its subsystem is destroyed too early. Only `state` and `ctrlrs` of a subsystem are read.
 */
#include "internal.h"

#include "spdk/nvmf.h"
#include "spdk/nvmf_spec.h"
#include "nvmf/nvmf_internal.h"

#define TRANSPORT "TCP"
#define NAMESPACE_ID 1

static struct spdk_nvmf_subsystem *
find(const char *nqn)
{
	struct spdk_nvmf_tgt *target = spdk_nvmf_get_first_tgt();

	return target == NULL ? NULL : spdk_nvmf_tgt_find_subsystem(target, nqn);
}

static enum cs_nvmf_state
state_of(const struct spdk_nvmf_subsystem *subsystem)
{
	switch (subsystem->state) {
	case SPDK_NVMF_SUBSYSTEM_INACTIVE:
		return CS_NVMF_INACTIVE;
	case SPDK_NVMF_SUBSYSTEM_ACTIVE:
		return CS_NVMF_ACTIVE;
	case SPDK_NVMF_SUBSYSTEM_PAUSED:
		return CS_NVMF_PAUSED;
	default:
		return CS_NVMF_CHANGING;
	}
}

/* Listeners, namespaces and hosts may change only then. */
static bool
may_change(const struct spdk_nvmf_subsystem *subsystem)
{
	enum cs_nvmf_state state = state_of(subsystem);

	return state == CS_NVMF_INACTIVE || state == CS_NVMF_PAUSED;
}

/* ------------------------------------------------------------------ transport */

struct start {
	struct spdk_nvmf_transport *transport;
	cs_done_cb cb;
	void *arg;
};

static void
transport_added(void *context, int rc)
{
	struct start *start = context;

	start->cb(start->arg, rc);
	free(start);
}

static void
transport_made(void *context, struct spdk_nvmf_transport *transport)
{
	struct start *start = context;

	if (transport == NULL) {
		transport_added(start, -ENOMEM);
		return;
	}
	spdk_nvmf_tgt_add_transport(spdk_nvmf_get_first_tgt(), transport, transport_added, start);
}

void
cs_nvmf_start_tcp(const struct cs_nvmf_transport *transport, cs_done_cb cb, void *arg)
{
	struct spdk_nvmf_tgt *target = spdk_nvmf_get_first_tgt();
	struct spdk_nvmf_transport_opts opts = {};
	struct start *start;

	if (target == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (spdk_nvmf_tgt_get_transport(target, TRANSPORT) != NULL) {
		cb(arg, 0);
		return;
	}
#if CS_SPDK_SINCE(21, 1)
	spdk_nvmf_transport_opts_init(TRANSPORT, &opts, sizeof(opts));
#else
	spdk_nvmf_transport_opts_init(TRANSPORT, &opts);
#endif
	opts.max_queue_depth = transport->max_queue_depth;
	opts.max_qpairs_per_ctrlr = transport->max_queues;
	opts.in_capsule_data_size = transport->in_capsule_bytes;
	opts.max_io_size = transport->max_io_bytes;
	opts.io_unit_size = transport->io_unit_bytes;
	opts.num_shared_buffers = transport->shared_buffers;
	opts.buf_cache_size = transport->buffer_cache;
	start = calloc(1, sizeof(*start));
	if (start == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	start->cb = cb;
	start->arg = arg;
#if CS_SPDK_SINCE(23, 5)
	int rc = spdk_nvmf_transport_create_async(TRANSPORT, &opts, transport_made, start);

	if (rc != 0) {
		transport_added(start, rc);
	}
#else
	transport_made(start, spdk_nvmf_transport_create(TRANSPORT, &opts));
#endif
}

/* ------------------------------------------------------------------ subsystems */

static struct spdk_nvmf_subsystem *
create(struct spdk_nvmf_tgt *target, const struct cs_nvmf_subsystem *config)
{
	struct spdk_nvmf_subsystem *subsystem;

#if CS_SPDK_SINCE(26, 5)
	struct spdk_nvmf_subsystem_opts opts = {};

	spdk_nvmf_subsystem_opts_init(SPDK_NVMF_SUBTYPE_NVME, &opts, sizeof(opts));
	opts.max_namespaces = NAMESPACE_ID;
	snprintf(opts.sn, sizeof(opts.sn), "%s", config->serial);
	snprintf(opts.mn, sizeof(opts.mn), "%s", config->model);
	opts.ana_reporting = config->ana;
	subsystem = spdk_nvmf_subsystem_create_ext(target, config->nqn, SPDK_NVMF_SUBTYPE_NVME, &opts);
	if (subsystem == NULL) {
		return NULL;
	}
#else
	subsystem = spdk_nvmf_subsystem_create(target, config->nqn, SPDK_NVMF_SUBTYPE_NVME, NAMESPACE_ID);
	if (subsystem == NULL) {
		return NULL;
	}
	spdk_nvmf_subsystem_set_sn(subsystem, config->serial);
	spdk_nvmf_subsystem_set_mn(subsystem, config->model);
#if CS_SPDK_SINCE(24, 9)
	spdk_nvmf_subsystem_set_ana_reporting(subsystem, config->ana);
#endif
#endif
#if CS_SPDK_SINCE(24, 9)
	if (config->min_cntlid > 0) {
		spdk_nvmf_subsystem_set_cntlid_range(subsystem, config->min_cntlid, config->max_cntlid);
	}
#endif
	spdk_nvmf_subsystem_set_allow_any_host(subsystem, config->any_host);
	return subsystem;
}

int
cs_nvmf_create(const struct cs_nvmf_subsystem *config)
{
	struct spdk_nvmf_tgt *target = spdk_nvmf_get_first_tgt();

	if (target == NULL) {
		return -ENODEV;
	}
	if (find(config->nqn) != NULL) {
		return -EEXIST;
	}
	return create(target, config) == NULL ? -ENOSPC : 0;
}

struct destroy {
	struct spdk_nvmf_subsystem *subsystem;
	uint64_t deadline;
	struct spdk_poller *poller;
	cs_done_cb cb;
	void *arg;
};

static void
destroy_done(void *context)
{
	struct destroy *destroy = context;

	destroy->cb(destroy->arg, 0);
	free(destroy);
}

/* Controllers leave the list by a message after their last queue pair; 20.07 does not wait for that. */
static int
destroy_when_left(void *context)
{
	struct destroy *destroy = context;

	if (!TAILQ_EMPTY(&destroy->subsystem->ctrlrs)) {
		if (cs_deadline_passed(destroy->deadline)) {
			spdk_poller_unregister(&destroy->poller);
			destroy->cb(destroy->arg, -ETIMEDOUT);
			free(destroy);
		}
		return SPDK_POLLER_IDLE;
	}
	spdk_poller_unregister(&destroy->poller);
#if CS_SPDK_SINCE(21, 10)
	if (spdk_nvmf_subsystem_destroy(destroy->subsystem, destroy_done, destroy) == -EINPROGRESS) {
		return SPDK_POLLER_BUSY;
	}
#else
	spdk_nvmf_subsystem_destroy(destroy->subsystem);
#endif
	destroy_done(destroy);
	return SPDK_POLLER_BUSY;
}

void
cs_nvmf_destroy(const char *nqn, uint32_t timeout_ms, cs_done_cb cb, void *arg)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);
	struct destroy *destroy;

	if (subsystem == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (state_of(subsystem) != CS_NVMF_INACTIVE) {
		cb(arg, -EBUSY);
		return;
	}
	destroy = calloc(1, sizeof(*destroy));
	if (destroy == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	destroy->subsystem = subsystem;
	destroy->deadline = cs_deadline_after(timeout_ms);
	destroy->cb = cb;
	destroy->arg = arg;
	destroy->poller = spdk_poller_register_named(destroy_when_left, destroy, CS_POLL_US,
			  "corriente_nvmf_destroy");
	if (destroy->poller == NULL) {
		free(destroy);
		cb(arg, -ENOMEM);
	}
}

/* ------------------------------------------------------------------ namespaces, hosts, listeners */

int
cs_nvmf_add_namespace(const char *nqn, const char *bdev, const uint8_t *nguid, const uint8_t *uuid)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);
	struct spdk_bdev *found = spdk_bdev_get_by_name(bdev);
	struct spdk_nvmf_ns_opts opts = {};
	uint32_t nsid;

	if (subsystem == NULL || found == NULL) {
		return -ENODEV;
	}
	if (!may_change(subsystem)) {
		return -EAGAIN;
	}
	if (cs_bdev_is_claimed(found)) {
		return -EPERM;
	}
	spdk_nvmf_ns_opts_get_defaults(&opts, sizeof(opts));
	opts.nsid = NAMESPACE_ID;
	memcpy(opts.nguid, nguid, sizeof(opts.nguid));
	memcpy(&opts.uuid, uuid, sizeof(opts.uuid));
#if CS_SPDK_SINCE(21, 4)
	nsid = spdk_nvmf_subsystem_add_ns_ext(subsystem, spdk_bdev_get_name(found), &opts, sizeof(opts), NULL);
#else
	nsid = spdk_nvmf_subsystem_add_ns(subsystem, found, &opts, sizeof(opts), NULL);
#endif
	return nsid == NAMESPACE_ID ? 0 : -EIO;
}

int
cs_nvmf_remove_namespace(const char *nqn)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);

	if (subsystem == NULL) {
		return -ENODEV;
	}
	if (!may_change(subsystem)) {
		return -EAGAIN;
	}
	return spdk_nvmf_subsystem_remove_ns(subsystem, NAMESPACE_ID) == 0 ? 0 : -ENOENT;
}

int
cs_nvmf_allow_host(const char *nqn, const char *host_nqn)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);

	if (subsystem == NULL) {
		return -ENODEV;
	}
#if CS_SPDK_SINCE(23, 5)
	return spdk_nvmf_subsystem_add_host(subsystem, host_nqn, NULL);
#else
	if (!may_change(subsystem)) {
		return -EAGAIN;
	}
	return spdk_nvmf_subsystem_add_host(subsystem, host_nqn);
#endif
}

int
cs_nvmf_refuse_host(const char *nqn, const char *host_nqn)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);

	return subsystem == NULL ? -ENODEV : spdk_nvmf_subsystem_remove_host(subsystem, host_nqn);
}

static int
make_id(const struct cs_nvmf_listener *listener, struct spdk_nvme_transport_id *id)
{
	memset(id, 0, sizeof(*id));
	if (strlen(listener->address) > SPDK_NVMF_TRADDR_MAX_LEN ||
	    strlen(listener->port) > SPDK_NVMF_TRSVCID_MAX_LEN) {
		return -ENAMETOOLONG;
	}
	spdk_nvme_trid_populate_transport(id, SPDK_NVME_TRANSPORT_TCP);
	id->adrfam = listener->ipv6 ? SPDK_NVMF_ADRFAM_IPV6 : SPDK_NVMF_ADRFAM_IPV4;
	snprintf(id->traddr, sizeof(id->traddr), "%s", listener->address);
	snprintf(id->trsvcid, sizeof(id->trsvcid), "%s", listener->port);
	return 0;
}

struct listen {
	struct spdk_nvme_transport_id id;
	cs_done_cb cb;
	void *arg;
};

static void
listen_done(void *context, int rc)
{
	struct listen *listen = context;

	if (rc != 0) {
		spdk_nvmf_tgt_stop_listen(spdk_nvmf_get_first_tgt(), &listen->id);
	}
	listen->cb(listen->arg, rc);
	free(listen);
}

void
cs_nvmf_listen(const char *nqn, const struct cs_nvmf_listener *listener, cs_done_cb cb, void *arg)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);
	struct listen *listen;
	int rc;

	if (subsystem == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (!may_change(subsystem)) {
		cb(arg, -EAGAIN);
		return;
	}
	listen = calloc(1, sizeof(*listen));
	if (listen == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	listen->cb = cb;
	listen->arg = arg;
	rc = make_id(listener, &listen->id);
	if (rc == 0) {
		/* Counts its users, so two subsystems may share an address. */
#if CS_SPDK_SINCE(21, 1)
		struct spdk_nvmf_listen_opts opts = {};

		spdk_nvmf_listen_opts_init(&opts, sizeof(opts));
		rc = spdk_nvmf_tgt_listen_ext(spdk_nvmf_get_first_tgt(), &listen->id, &opts);
#else
		rc = spdk_nvmf_tgt_listen(spdk_nvmf_get_first_tgt(), &listen->id);
#endif
	}
	if (rc != 0) {
		/* Releases answer differently when the address is another's or taken. */
		rc = rc == -ENAMETOOLONG ? rc : -EADDRNOTAVAIL;
		free(listen);
		cb(arg, rc);
		return;
	}
	spdk_nvmf_subsystem_add_listener(subsystem, &listen->id, listen_done, listen);
}

int
cs_nvmf_unlisten(const char *nqn, const struct cs_nvmf_listener *listener)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);
	struct spdk_nvme_transport_id id;
	int rc;

	if (subsystem == NULL) {
		return -ENODEV;
	}
	rc = make_id(listener, &id);
	if (rc == 0) {
		/* First from the subsystem, which keeps a pointer into the transport's listener. */
		rc = spdk_nvmf_subsystem_remove_listener(subsystem, &id);
	}
	if (rc == 0) {
		rc = spdk_nvmf_tgt_stop_listen(spdk_nvmf_get_first_tgt(), &id);
	}
	return rc;
}

#if CS_SPDK_SINCE(24, 1)
static enum spdk_nvme_ana_state
ana_state(enum cs_nvmf_ana ana)
{
	switch (ana) {
	case CS_NVMF_ANA_OPTIMIZED:
		return SPDK_NVME_ANA_OPTIMIZED_STATE;
	case CS_NVMF_ANA_NON_OPTIMIZED:
		return SPDK_NVME_ANA_NON_OPTIMIZED_STATE;
	default:
		return SPDK_NVME_ANA_INACCESSIBLE_STATE;
	}
}
#endif

void
cs_nvmf_set_ana(const char *nqn, const struct cs_nvmf_listener *listener, enum cs_nvmf_ana ana,
		cs_done_cb cb, void *arg)
{
#if CS_SPDK_SINCE(24, 1)
	struct spdk_nvmf_subsystem *subsystem = find(nqn);
	struct spdk_nvme_transport_id id;
	int rc;

	if (subsystem == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	/* SPDK asserts this instead of answering. */
	if (!may_change(subsystem)) {
		cb(arg, -EAGAIN);
		return;
	}
	rc = make_id(listener, &id);
	if (rc != 0) {
		cb(arg, rc);
		return;
	}
	spdk_nvmf_subsystem_set_ana_state(subsystem, &id, ana_state(ana), 0, cb, arg);
#else
	cb(arg, -ENOTSUP);
#endif
}

/* ------------------------------------------------------------------ changes of state */

struct state_change {
	char nqn[SPDK_NVMF_NQN_MAX_LEN + 1];
	enum cs_nvmf_change change;
	uint64_t deadline;
	bool begun;
	struct spdk_poller *poller;
	/* NULL once the waiter has been told that the time is over. */
	cs_done_cb cb;
	void *arg;
};

static enum cs_nvmf_state
wanted(enum cs_nvmf_change change)
{
	switch (change) {
	case CS_NVMF_STOP:
		return CS_NVMF_INACTIVE;
	case CS_NVMF_PAUSE:
		return CS_NVMF_PAUSED;
	default:
		return CS_NVMF_ACTIVE;
	}
}

static void
state_change_answer(struct state_change *change, int rc)
{
	cs_done_cb cb = change->cb;

	spdk_poller_unregister(&change->poller);
	change->cb = NULL;
	cb(change->arg, rc);
}

static void
state_changed(struct spdk_nvmf_subsystem *subsystem, void *context, int rc)
{
	struct state_change *change = context;

	if (change->cb != NULL) {
		state_change_answer(change, rc == 0 ? 0 : -EIO);
	} else if (change->change == CS_NVMF_PAUSE && rc == 0) {
		/* Whoever paused has given up and will not resume. */
		spdk_nvmf_subsystem_resume(subsystem, NULL, NULL);
	}
	free(change);
}

static int
state_change_begin(struct spdk_nvmf_subsystem *subsystem, struct state_change *change)
{
	switch (change->change) {
	case CS_NVMF_START:
		return spdk_nvmf_subsystem_start(subsystem, state_changed, change);
	case CS_NVMF_STOP:
		return spdk_nvmf_subsystem_stop(subsystem, state_changed, change);
	case CS_NVMF_PAUSE:
#if CS_SPDK_SINCE(21, 1)
		return spdk_nvmf_subsystem_pause(subsystem, NAMESPACE_ID, state_changed, change);
#else
		return spdk_nvmf_subsystem_pause(subsystem, state_changed, change);
#endif
	default:
		return spdk_nvmf_subsystem_resume(subsystem, state_changed, change);
	}
}

static int
state_change_poll(void *context)
{
	struct state_change *change = context;
	struct spdk_nvmf_subsystem *subsystem = find(change->nqn);
	bool late = cs_deadline_passed(change->deadline);
	enum cs_nvmf_state state;

	if (change->begun) {
		if (late) {
			/* The context stays for the callback. */
			state_change_answer(change, -ETIMEDOUT);
		}
		return SPDK_POLLER_IDLE;
	}
	state = subsystem == NULL ? CS_NVMF_CHANGING : state_of(subsystem);
	if (subsystem != NULL && state == wanted(change->change)) {
		state_change_answer(change, 0);
		free(change);
		return SPDK_POLLER_BUSY;
	}
	/* Asked in an unsettled state SPDK may refuse in its own time, so it is not asked then. */
	if (state != CS_NVMF_CHANGING) {
		change->begun = true;
		if (state_change_begin(subsystem, change) == 0) {
			return SPDK_POLLER_BUSY;
		}
		change->begun = false;
	}
	if (subsystem == NULL || late) {
		state_change_answer(change, subsystem == NULL ? -ENODEV : -EBUSY);
		free(change);
	}
	return SPDK_POLLER_IDLE;
}

void
cs_nvmf_change(const char *nqn, enum cs_nvmf_change kind, uint32_t timeout_ms, cs_done_cb cb, void *arg)
{
	struct state_change *change;

	if (find(nqn) == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	change = calloc(1, sizeof(*change));
	if (change == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	snprintf(change->nqn, sizeof(change->nqn), "%s", nqn);
	change->change = kind;
	change->deadline = cs_deadline_after(timeout_ms);
	change->cb = cb;
	change->arg = arg;
	change->poller = spdk_poller_register_named(state_change_poll, change, CS_POLL_US,
			 "corriente_nvmf_change");
	if (change->poller == NULL) {
		free(change);
		cb(arg, -ENOMEM);
		return;
	}
	state_change_poll(change);
}

/* ------------------------------------------------------------------ describe */

static void
report(struct spdk_nvmf_subsystem *subsystem, cs_nvmf_info_cb cb, void *arg)
{
	struct spdk_nvmf_ns *ns = spdk_nvmf_subsystem_get_first_ns(subsystem);
	struct spdk_nvmf_subsystem_listener *listener = spdk_nvmf_subsystem_get_first_listener(subsystem);
	const struct spdk_nvme_transport_id *id =
		listener == NULL ? NULL : spdk_nvmf_subsystem_listener_get_trid(listener);
	struct cs_nvmf_info info = {
		.nqn = spdk_nvmf_subsystem_get_nqn(subsystem),
		.bdev = ns == NULL ? NULL : spdk_bdev_get_name(spdk_nvmf_ns_get_bdev(ns)),
		.address = id == NULL ? NULL : id->traddr,
		.port = id == NULL ? NULL : id->trsvcid,
		.state = state_of(subsystem),
	};
	struct spdk_nvmf_ctrlr *controller;

	TAILQ_FOREACH(controller, &subsystem->ctrlrs, link) {
		info.connected++;
	}
	cb(arg, &info);
}

int
cs_nvmf_info(const char *nqn, cs_nvmf_info_cb cb, void *arg)
{
	struct spdk_nvmf_subsystem *subsystem = find(nqn);

	if (subsystem == NULL) {
		return -ENODEV;
	}
	report(subsystem, cb, arg);
	return 0;
}

void
cs_nvmf_list(cs_nvmf_info_cb cb, void *arg)
{
	struct spdk_nvmf_tgt *target = spdk_nvmf_get_first_tgt();
	struct spdk_nvmf_subsystem *subsystem;

	if (target == NULL) {
		return;
	}
	for (subsystem = spdk_nvmf_subsystem_get_first(target); subsystem != NULL;
	     subsystem = spdk_nvmf_subsystem_get_next(subsystem)) {
		if (strcmp(spdk_nvmf_subsystem_get_nqn(subsystem), SPDK_NVMF_DISCOVERY_NQN) != 0) {
			report(subsystem, cb, arg);
		}
	}
}
