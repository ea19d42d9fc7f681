package model

import "time"

// Attempt is what became of kubelet's last call for a volume that is not published yet: why a pod waits.
type Attempt struct {
	VolumeID string `json:"volumeID"`
	Target   string `json:"target"`
	// Pod is namespace/name; empty where kubelet does not tell.
	Pod string `json:"pod,omitempty"`
	// Reference as the pod says it, checked or not.
	Reference string `json:"reference"`
	// First is when the volume was first asked for, Began when the last call began, Ended when it was answered; zero
	// while it is under way.
	First time.Time `json:"first"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended,omitzero"`
	// Calls so far.
	Calls int `json:"calls"`
	// Code and Error are the answer to the last call that was answered; both empty before that.
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
}
