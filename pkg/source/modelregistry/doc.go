// Package modelregistry looks names up in the Kubeflow Model Registry: which reference a registered model stands for.
//
// A registered model has versions, and a version has artifacts. A model registry holds no bytes: an artifact says in
// its URI where they are. [Resolver.Lookup] finds the version that a reference names, or the newest one that is live,
// takes its newest model artifact, and reads the URI as a reference of another scheme. Whoever pulls treats that one as
// if it had been written instead, with a caution: its author is whoever may write to the model registry.
//
// The API is v1alpha3 of the Model Registry's REST API, read only.
package modelregistry
