package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
)

func newWhyCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "why [NAMESPACE/]POD | VOLUME",
		Short: "Say what a pod's volume waits for, and what to do",
		Long: `Ask the daemon of this node what became of a pod's model volumes: mounted, being pulled and how far, or refused, for which
reason and what helps. A pod is named as in Kubernetes, a volume by its id as it is in kubelet's log. Run it on the pod's
node, for example with kubectl exec in the plugin's pod.`,
		Example: `  model-csi why team-a/llm-0
  kubectl exec -n model-csi daemonset/model-csi -- model-csi why team-a/llm-0`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := admin.NewClient(t.root).Status(cmd.Context())
			if err != nil {
				return err
			}
			list, err := explain(s, args[0], time.Now())
			if err != nil {
				return err
			}
			return t.print(cmd.OutOrStdout(), list, func(w io.Writer) error {
				for _, x := range list {
					if _, err := fmt.Fprint(w, x); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	t.bind(cmd)
	return cmd
}

// explanation is what is known of one volume.
type explanation struct {
	Volume    string `json:"volume"`
	Pod       string `json:"pod,omitempty"`
	Reference string `json:"reference"`
	// State is "mounted", "pulling", "starting" or "failing".
	State string `json:"state"`
	// Detail says more in a sentence, Advice what to do about it; Advice is empty where waiting is all.
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

// String is the explanation for a terminal.
func (x explanation) String() string {
	s := fmt.Sprintf("%s: %s", x.State, x.Reference)
	if x.Pod != "" {
		s += " for pod " + x.Pod
	}
	s += fmt.Sprintf("\n  volume: %s\n  %s\n", x.Volume, x.Detail)
	if x.Advice != "" {
		s += "  what to do: " + x.Advice + "\n"
	}
	return s
}

// explain finds the volumes of a pod, or one by its id, and says what each waits for. A pure function of the status.
func explain(s admin.Status, name string, now time.Time) ([]explanation, error) {
	asked := func(pod, volume string) bool {
		return pod != "" && (pod == name || path.Base(pod) == name) || volume == name || strings.HasPrefix(volume, name) && len(name) >= 12
	}
	var out []explanation
	for _, l := range s.Volumes {
		if asked(l.Pod, l.VolumeID) {
			out = append(out, explanation{Volume: l.VolumeID, Pod: l.Pod, Reference: l.Reference, State: "mounted",
				Detail: fmt.Sprintf("%s in %d files, mounted since %s at %s", bytesText(l.Bytes), l.Files, humanize.RelTime(l.Created, now, "ago", "from now"), l.Target)})
		}
	}
	for _, w := range s.Waiting {
		if asked(w.Pod, w.VolumeID) {
			out = append(out, waits(w, s.Pulls, now))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("kubelet has not asked this node for a model volume of %q. Is the pod scheduled to this node (%s), and is the driver registered (kubectl get csinodes)? "+
			"A volume that was never asked for has its reason in the pod's events (kubectl describe pod): %w", name, s.Node, model.ErrNotFound)
	}
	slices.SortFunc(out, func(a, b explanation) int { return strings.Compare(a.Pod+a.Volume, b.Pod+b.Volume) })
	return out, nil
}

func waits(w model.Attempt, pulls []pull.Progress, now time.Time) explanation {
	x := explanation{Volume: w.VolumeID, Pod: w.Pod, Reference: w.Reference, State: "failing"}
	for _, p := range pulls {
		if p.Reference == w.Reference {
			x.State, x.Detail = "pulling", p.String()
			if p.Trouble != "" {
				x.Advice = "nothing yet: it is tried again by itself. If the trouble stays, look at the registry or the network"
			}
			return x
		}
	}
	since := humanize.RelTime(w.First, now, "ago", "from now")
	if w.Ended.IsZero() && w.Error == "" {
		x.State, x.Detail = "starting", fmt.Sprintf("asked for %s; the registry is being asked what the reference is", since)
		return x
	}
	x.Detail = fmt.Sprintf("%s (%s; asked for %d times, first %s)", w.Error, w.Code, w.Calls, since)
	x.Advice = advice[w.Code]
	return x
}

// advice is what helps, by the code of the answer. The error itself names the object.
var advice = map[string]string{
	"InvalidArgument":    "correct the volume's attributes in the pod; nothing was asked of any registry",
	"NotFound":           "correct the reference, or push the model; a private registry may say so to hide what it has, so look at the credential too",
	"Unauthenticated":    "give the volume a nodePublishSecretRef whose secret has a credential for the registry",
	"PermissionDenied":   "the credential is good and the permission is missing: grant it at the registry, or ask who wrote the policy of this cluster",
	"ResourceExhausted":  "make room: model-csi cache ls, model-csi cache gc, or a larger disk or cache-limit",
	"DataLoss":           "what the registry sends is not what the manifest says: push the model again, or look at the mirror in between",
	"Unavailable":        "nothing in the pod: look at the registry, at DNS and at the network of this node. It is tried again by itself",
	"Aborted":            "nothing: it is still at work",
	"AlreadyExists":      "something else is mounted at the target; look at it by hand (findmnt), then delete the pod",
	"FailedPrecondition": "the artifact is not one that can be mounted as it is; the message says what is",
	"OutOfRange":         "a limit of the operator is in the way; the message names it",
}
