package driver

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

// maxTokens bounds the text of all service account tokens of one call in bytes. One takes one or two thousand.
const maxTokens = 256 << 10

// callerOf says who asks, by what kubelet says of the pod. It writes the pod's name and so on over whatever a user wrote
// there, but only where the CSIDriver object asks for it with podInfoOnMount; the target path is always its own. So the
// pod counts only if its UID is in both.
func callerOf(r *csi.NodePublishVolumeRequest) (credential.Caller, error) {
	c := credential.Caller{Secrets: maps.Clone(r.GetSecrets())}
	// The name of a key in a Secret cannot have a slash, so this one is kubelet's, and no user's.
	tokens, ok := c.Secrets[podTokens]
	if ok {
		delete(c.Secrets, podTokens)
		var err error
		if c.Tokens, err = parseTokens(tokens); err != nil {
			return credential.Caller{}, err
		}
	}
	context := r.GetVolumeContext()
	if uid := context[podUID]; uid != "" && strings.Contains(r.GetTargetPath(), "/pods/"+uid+"/volumes/") {
		c.Namespace, c.Pod, c.UID = context[podNamespace], context[podName], uid
		c.ServiceAccount = context[podServiceAccount]
	}
	return c, nil
}

// parseTokens reads tokens by audience, in the form of authentication.k8s.io/v1 TokenRequestStatus. Errors show nothing
// of the text.
func parseTokens(text string) (map[string]model.Secret, error) {
	if len(text) > maxTokens {
		return nil, fmt.Errorf("service account tokens: longer than %d bytes: %w", maxTokens, model.ErrInvalid)
	}
	var statuses map[string]struct {
		Token string `json:"token"`
	}
	if json.Unmarshal([]byte(text), &statuses) != nil {
		return nil, fmt.Errorf("service account tokens: not in the form that kubelet writes: %w", model.ErrInvalid)
	}
	tokens := make(map[string]model.Secret, len(statuses))
	for audience, s := range statuses {
		if s.Token != "" {
			tokens[audience] = model.NewSecret(s.Token)
		}
	}
	return tokens, nil
}
