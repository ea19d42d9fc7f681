package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
)

// This file has the configuration of every component, as text.

// containerdSocket is where the node's container runtime listens, on the node.
const containerdSocket = "/run/containerd/containerd.sock"

func etcdArgs(run string) []string {
	return []string{
		"etcd", "--data-dir=" + filepath.Join(run, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380", "--logger=zap", "--log-level=warn",
	}
}

func apiserverArgs(etc string) []string {
	return []string{
		"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=" + apiPort,
		"--advertise-address=" + NodeIP, "--tls-cert-file=" + etc + "/apiserver.crt", "--tls-private-key-file=" + etc + "/apiserver.key",
		"--token-auth-file=" + etc + "/tokens.csv", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-cluster-ip-range=" + serviceCIDR, "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + etc + "/sa.key", "--service-account-key-file=" + etc + "/sa.pub",
		"--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true", "--cert-dir=" + etc,
	}
}

func controllerManagerArgs(etc string) []string {
	return []string{
		"kube-controller-manager", "--kubeconfig=" + etc + "/admin.kubeconfig", "--leader-elect=false",
		"--service-account-private-key-file=" + etc + "/sa.key", "--root-ca-file=" + etc + "/ca.crt",
		"--use-service-account-credentials=true", "--cert-dir=" + etc,
	}
}

func schedulerArgs(etc string) []string {
	return []string{"kube-scheduler", "--kubeconfig=" + etc + "/admin.kubeconfig", "--leader-elect=false", "--cert-dir=" + etc}
}

// The node's components see the run directory at nodeRun.
var nodeComponents = map[string][]string{
	"containerd": {nodeBin + "/containerd", "--config=" + nodeRun + "/etc/containerd.toml"},
	"kubelet": {
		nodeBin + "/kubernetes", "kubelet", "--config=" + nodeRun + "/etc/kubelet.yaml",
		"--kubeconfig=" + nodeRun + "/etc/kubelet.kubeconfig", "--hostname-override=" + NodeName, "--node-ip=" + NodeIP,
		"--cert-dir=/var/lib/kubelet/pki", "--root-dir=/var/lib/kubelet", "--v=3",
	},
	"kube-proxy": {nodeBin + "/kubernetes", "kube-proxy", "--config=" + nodeRun + "/etc/kube-proxy.yaml", "--hostname-override=" + NodeName},
}

// nodeFiles are the node's configuration files by their names in the run's etc directory.
func nodeFiles() map[string]string {
	return map[string]string{
		"containerd.toml": fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = %q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "model-csi.test/pause:e2e"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = %q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%q]
    conf_dir = %q
`, containerdSocket, nodeRun+"/etc/certs.d", nodeBin, nodeRun+"/etc/cni"),
		"cni/10-bridge.conflist": fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "e2e", "plugins": [
  {"type": "bridge", "bridge": %q, "isGateway": true, "hairpinMode": true, "ipam": {"type": "host-local",
   "dataDir": "/run/cni", "ranges": [[{"subnet": %q, "rangeStart": "10.88.1.1", "gateway": %q}]],
   "routes": [{"dst": "0.0.0.0/0"}]}}]}
`, bridgeName, podCIDR, NodeIP),
		"kubelet.yaml": fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
resolvConf: ""
enableServer: true
volumePluginDir: /var/lib/kubelet/volume-plugins
`, containerdSocket),
		// Connection tracking limits belong to the whole machine and are left alone.
		"kube-proxy.yaml": fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: %s
clientConnection: {kubeconfig: %s/etc/admin.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, podCIDR, nodeRun),
	}
}

// kubeconfig is a client's configuration with a bearer token.
func kubeconfig(server, caFile, user, token string) []byte {
	return []byte(strings.TrimLeft(fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: %[1]s
clusters:
- name: %[1]s
  cluster: {server: %[2]q, certificate-authority: %[3]q}
users:
- name: %[4]s
  user: {token: %[5]q}
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: %[4]s}
`, clusterName, server, caFile, user, token), "\n"))
}
