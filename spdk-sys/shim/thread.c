/* SPDK threads: creation, and telling the reactor layer on which core each belongs. */
#include "internal.h"

static cs_thread_cb g_on_new_thread;

static int
new_thread(struct spdk_thread *thread)
{
	struct spdk_cpuset *mask = spdk_thread_get_cpumask(thread);
	uint32_t core;

	SPDK_ENV_FOREACH_CORE(core) {
		if (spdk_cpuset_get_cpu(mask, core)) {
			return g_on_new_thread(thread, core);
		}
	}
	return g_on_new_thread(thread, spdk_env_get_first_core());
}

int
cs_thread_lib_start(cs_thread_cb on_new_thread)
{
	g_on_new_thread = on_new_thread;
	return spdk_thread_lib_init(new_thread, 0);
}

void
cs_thread_lib_stop(void)
{
	spdk_thread_lib_fini();
}

struct spdk_thread *
cs_thread_new(const char *name, uint32_t core)
{
	struct spdk_cpuset mask;

	spdk_cpuset_zero(&mask);
	spdk_cpuset_set_cpu(&mask, core, true);
	return spdk_thread_create(name, &mask);
}
