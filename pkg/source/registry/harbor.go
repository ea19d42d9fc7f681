package registry

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// projectRule is the code of the errors with which Harbor keeps an artifact back whose project has rules for what may
// be pulled.
const projectRule = "PROJECTPOLICYVIOLATION"

// harborRule reports whether an answer is the no of a Harbor project's rules, and what to do about it. Harbor answers
// with status 412, which nothing else here can cause: conditions are never sent.
func harborRule(r reply) (hint string, ok bool) {
	var said struct {
		Errors []struct{ Code, Message string }
	}
	_ = json.Unmarshal(r.body, &said)
	code, message := "", ""
	if len(said.Errors) > 0 {
		code, message = said.Errors[0].Code, strings.ToLower(said.Errors[0].Message)
	}
	switch {
	case strings.Contains(message, "exceed the configured upper limit") && (r.status == http.StatusForbidden || r.status == http.StatusPreconditionFailed):
		return "the storage quota of the Harbor project is used up; its administrator can raise it or remove artifacts", true
	case code != projectRule && r.status != http.StatusPreconditionFailed:
		return "", false
	case strings.Contains(message, "not signed"):
		return "the Harbor project gives out signed artifacts only; sign it, for example with cosign", true
	case strings.Contains(message, "vulnerabilit"):
		return "the Harbor project keeps back what is vulnerable or was not scanned; its administrator can scan the artifact or put the findings on the CVE allowlist", true
	}
	return "a rule of the Harbor project keeps it back; ask the project's administrator", true
}

// robotHint is the next step where the account of a Harbor robot is not accepted. Harbor does not say which of these it
// is.
func robotHint(cred model.Credential) string {
	if !strings.HasPrefix(cred.Username, "robot") {
		return ""
	}
	hint := "check that the robot account is enabled, has not expired, and may pull from this project"
	if !strings.Contains(cred.Username, "$") {
		hint += "; Harbor's own prefix of robot accounts is robot$, and a shell that made the secret may have replaced what follows the $"
	}
	return hint
}
