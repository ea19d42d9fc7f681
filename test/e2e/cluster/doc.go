// Package cluster runs a real one-node Kubernetes on one Linux machine: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler, containerd, kubelet and kube-proxy, without an image registry and without touching the host.
//
// The words: the sandbox is a process in a PID, network and mount namespace of its own; it is the first process there,
// so whatever way it ends, the kernel ends every other process of the cluster with it, and their mounts and network
// devices. The outer process only starts the sandbox, waits for it and removes what a kernel does not: the run
// directory and the cgroups. The node is a machine inside of the sandbox: its init has PID, mount and cgroup namespaces
// again, so that killing it is a power cut, and starting it again on the same disk (a directory) a reboot. In the node
// /var and /run are its own, which lets kubelet and the product use their default paths.
//
// A run directory is locked by its outer process. One that can be locked belongs to a run that is dead; the next run
// removes it.
package cluster
