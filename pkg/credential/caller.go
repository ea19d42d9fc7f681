package credential

import (
	"fmt"
	"log/slog"

	"github.com/model-csi/model-csi/pkg/model"
)

// Caller is the pod for which a volume is published, as kubelet describes it. What the pod's author can write is not in
// it. A field that kubelet did not tell is empty, and a source of credentials that needs it then has none.
type Caller struct {
	// Secrets is the data of the secret that the volume's nodePublishSecretRef names.
	Secrets map[string]string
	// Namespace, Pod and UID name the pod, and tell it from an earlier one of the same name.
	Namespace, Pod, UID string
	// ServiceAccount is the name of the pod's service account.
	ServiceAccount string
	// Tokens are service account tokens that are bound to the pod, by audience.
	Tokens map[string]model.Secret
}

// String names the pod, and shows nothing else.
func (c Caller) String() string { return c.Namespace + "/" + c.Pod }

// Format implements fmt.Formatter, so that no verb reaches the secrets.
func (c Caller) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue implements slog.LogValuer.
func (c Caller) LogValue() slog.Value { return slog.StringValue(c.String()) }
