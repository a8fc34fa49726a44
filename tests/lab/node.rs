//! `corriente serve` inside a guest; its gRPC is reached from here.

use std::time::Duration;

use corriente::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::wait::wait_until;
use crate::vm::{GUEST_ADDRESSES, Vm};

const START_LIMIT: Duration = Duration::from_secs(120);
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// A node of a guest, by its index. It ends with the machine.
#[derive(Clone, Copy)]
pub struct GuestNode(pub usize);

impl GuestNode {
    /// Starts it, with `settings` beyond those of all tests, and waits until it serves. What it has stored is kept.
    pub async fn start(self, vm: &Vm, settings: &str) {
        let (index, ip) = (self.0, GUEST_ADDRESSES[self.0]);
        let config = format!(
            "listen = \"{ip}:8504\"\nadvertise_ip = \"{ip}\"\nstate_dir = \"/var/lib/corriente{index}\"\n\
             timeouts.member_deadline = \"30s\"\ntimeouts.pause = \"30s\"\nmetrics.listen = \"off\"\n{settings}\n"
        );
        vm.run(&format!(
            "mkdir -p /etc/corriente /var/lib/corriente{index}
             cat >/etc/corriente/{index}.toml <<'END'\n{config}END
             for port in /sys/class/virtio-ports/*; do
                 if grep -qx log{index} $port/name; then log=/dev/${{port##*/}}; fi
             done
             setsid /bin/corriente serve --config /etc/corriente/{index}.toml </dev/null >$log 2>&1 &
             echo $! >/run/corriente{index}.pid"
        ))
        .await;
        self.serves(vm).await;
    }

    /// Ends it as a crash would; returns when it is gone.
    pub async fn kill9(self, vm: &Vm) {
        let pid = format!("$(cat /run/corriente{}.pid)", self.0);
        vm.run(&format!("kill -9 {pid}; while [ -e /proc/{pid} ]; do usleep 10000; done; rm -f /dev/hugepages/*"))
            .await;
    }

    /// Stops it as systemd would.
    pub async fn stop(self, vm: &Vm) {
        let pid = format!("$(cat /run/corriente{}.pid)", self.0);
        vm.run(&format!("kill {pid}; while [ -e /proc/{pid} ]; do usleep 10000; done")).await;
    }

    /// Longhorn's service.
    pub fn spdk(self, vm: &Vm) -> SpdkServiceClient<Channel> {
        SpdkServiceClient::new(self.channel(vm))
    }

    pub fn channel(self, vm: &Vm) -> Channel {
        let address = format!("http://127.0.0.1:{}", vm.grpc_port(self.0));
        let endpoint = Endpoint::from_shared(address).expect("an address");
        endpoint.timeout(CALL_LIMIT).connect_timeout(CALL_LIMIT).connect_lazy()
    }

    async fn serves(self, vm: &Vm) {
        // QEMU takes connections whether anybody listens in the guest or not, so only an answer counts.
        wait_until(START_LIMIT, "the node in the guest serves", async || {
            let alive = vm.begin(&format!("kill -0 $(cat /run/corriente{}.pid)", self.0)).await.end().await;
            assert_eq!(alive.code, 0, "the node ended while starting:\n{}", vm.guest_log(self.0));
            match HealthClient::new(self.channel(vm)).check(HealthCheckRequest::default()).await {
                Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}
