// Package driver speaks CSI: it answers kubelet's Identity and Node calls on a unix socket, registers that socket with
// kubelet, and turns a publish request into a pulled model, a view and a read-only mount.
//
// A volume is published at a target path. Its attributes ([Attributes]) come from the pod's inline volume or from a
// PersistentVolume; both are treated the same. A lease is the durable note that a volume is published: it is written
// before the mount is made and removed after the unmount, so at every moment either nothing of a volume exists or there
// is a lease that says what. A mounted target with the same attributes is published already, and says so without asking
// anybody else: kubelet asks again after its own restart, when the registry may be away.
//
// Every volume is mounted read-only whatever the request says. Kubelet calls an inline volume ReadWriteOnce with
// readonly false unless the pod says otherwise, and CSI has no way to declare a driver that cannot write.
//
// The package knows gRPC codes (one table, in status.go) and decides nothing about registries, formats or the cache.
package driver
