package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	defaultTimeout = 5 * time.Second
	defaultTTL     = 5 * time.Second
	// maxAnswer is above the largest object that the API server keeps, with room for its encoding.
	maxAnswer = 4 << 20
	// maxText bounds what an error repeats of the API server's own words.
	maxText = 300
	// A pod's publish takes two or three requests; the limits let a hundred pods start at once.
	requestsPerSecond = 50
	requestsAtOnce    = 300
)

// Options of a Client.
type Options struct {
	// Timeout bounds all requests for one reference together, and a little less of it one request, so that it is known
	// which of them had no answer; 5 s when zero.
	Timeout time.Duration
	// TTL is how long an answer is used again, and how long nothing is asked after the API server did not answer; 5 s
	// when zero.
	TTL time.Duration
	// Node is the name of this node, whose pods alone are served; empty means that it is not looked at.
	Node string
	// UserAgent is what the API server's audit log shows.
	UserAgent string
}

// Client gets objects from the API server. It is safe for concurrent use.
type Client struct {
	api  rest.Interface
	opts Options

	asking singleflight.Group

	mu      sync.Mutex // guards what follows
	answers map[string]answer
	// silent is why the API server did not answer when it was last asked, and until when that is believed.
	silent      error
	silentUntil time.Time
}

type answer struct {
	object  runtime.Object
	expires time.Time
}

// InCluster returns the client of a pod, with the token of its service account, which is read again when it changes.
// It fails where the pod has none.
func InCluster(o Options) (*Client, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("API server: %w; the plugin needs to run in a pod with automountServiceAccountToken: true", err)
	}
	return New(config, o)
}

// New returns a client of the API server that config describes, which stays as it is.
func New(config *rest.Config, o Options) (*Client, error) {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.TTL <= 0 {
		o.TTL = defaultTTL
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	config = rest.CopyConfig(config)
	// A scheme of one group keeps the types of all others out of the binary.
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.Timeout, config.UserAgent = o.Timeout, o.UserAgent
	config.QPS, config.Burst = requestsPerSecond, requestsAtOnce
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	api, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	return &Client{api: api, opts: o, answers: make(map[string]answer)}, nil
}

// bounded ends answers that are longer than any object.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body = http.MaxBytesReader(nil, response.Body, maxAnswer)
	return response, nil
}

// pod is not remembered: a name may stand for another pod a moment later.
func (c *Client) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return get(ctx, c, "pods", namespace, name, new(corev1.Pod))
}

func (c *Client) serviceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return get(ctx, c, "serviceaccounts", namespace, name, new(corev1.ServiceAccount))
}

func (c *Client) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return get(ctx, c, "secrets", namespace, name, new(corev1.Secret))
}

// ServiceAccount returns the UID and the annotations of a service account. It fails with model.ErrNotFound,
// model.ErrDenied or model.ErrUnavailable.
func (c *Client) ServiceAccount(ctx context.Context, namespace, name string) (uid string, annotations map[string]string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	a, err := c.serviceAccount(ctx, namespace, name)
	if err != nil {
		return "", nil, fmt.Errorf("service account %s of namespace %s: %w", name, namespace, err)
	}
	return string(a.UID), a.Annotations, nil
}

// get returns one object, which is shared and must not be changed. Everybody who asks for the same at the same time
// shares one request, which ends by itself.
func get[T runtime.Object](ctx context.Context, c *Client, resource, namespace, name string, into T) (T, error) {
	var zero T
	key := resource + "/" + namespace + "/" + name
	if object, err := c.known(key); err != nil || object != nil {
		found, _ := object.(T)
		return found, err
	}
	request := c.asking.DoChan(key, func() (any, error) {
		// It may have been answered since.
		if object, err := c.known(key); err != nil || object != nil {
			return object, err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.Timeout*4/5)
		defer cancel()
		// Kubelet tries again, and paces it.
		err := translate(c.api.Get().Namespace(namespace).Resource(resource).Name(name).MaxRetries(0).Do(ctx).Into(into))
		c.learn(key, into, err)
		return into, err
	})
	select {
	case r := <-request:
		if r.Err != nil {
			return zero, r.Err
		}
		found, _ := r.Val.(T)
		return found, nil
	case <-ctx.Done():
		return zero, fmt.Errorf("the API server has not answered: %w", errors.Join(context.Cause(ctx), model.ErrUnavailable))
	}
}

// known returns what was learned lately: the object, or that the API server is away.
func (c *Client) known(key string) (runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if a, ok := c.answers[key]; ok && now.Before(a.expires) {
		return a.object, nil
	}
	if now.Before(c.silentUntil) {
		return nil, c.silent
	}
	return nil, nil
}

func (c *Client) learn(key string, object runtime.Object, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for k, a := range c.answers {
		if !now.Before(a.expires) {
			delete(c.answers, k)
		}
	}
	switch {
	case err == nil && !isPod(object):
		c.answers[key] = answer{object, now.Add(c.opts.TTL)}
	case errors.Is(err, model.ErrUnavailable):
		c.silent, c.silentUntil = err, now.Add(c.opts.TTL)
	}
}

func isPod(object runtime.Object) bool {
	_, ok := object.(*corev1.Pod)
	return ok
}

// translate gives an error of client-go its kind. Of an answer that cannot be understood nothing is shown, because it
// may hold parts of a secret.
func translate(err error) error {
	if err == nil {
		return nil
	}
	var network *url.Error
	var status apierrors.APIStatus
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the API server has none: %w", model.ErrNotFound)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("the plugin may not read it (%s): %w", shorten(err.Error()), model.ErrDenied)
	case errors.As(err, &status):
		return fmt.Errorf("the API server does not answer (%s): %w", shorten(status.Status().Message), model.ErrUnavailable)
	case errors.As(err, &network):
		return fmt.Errorf("the API server cannot be reached (%s): %w", shorten(network.Err.Error()), model.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the API server does not answer in time: %w", model.ErrUnavailable)
	}
	return fmt.Errorf("what the API server answers cannot be understood: %w", model.ErrUnavailable)
}

func shorten(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "..."
	}
	return s
}
