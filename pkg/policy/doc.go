// Package policy is what a cluster's operator allows each namespace: which models, how large, and how much of a node's
// cache.
//
// A [Policy] has rules for everybody and, by namespace, rules that differ. A rule about references is a [Pattern]. What a
// deny pattern matches is refused whatever else is said; where there are allow patterns, what none of them matches is
// refused as well. Decisions are pure functions of a policy, a namespace and a reference.
//
// A [File] is a policy in a YAML file that may change while the plugin runs, as a projected ConfigMap does:
//
//	defaults:
//	  allow: [registry.example.com/models/**, "hf://meta-llama/*"]
//	  deny: ["**/experimental/**"]
//	  maxModelSize: 200Gi
//	  maxFiles: 10000
//	  cacheShare: 30%
//	namespaces:
//	  research:
//	    allow: ["**"]
//	    cacheShare: 60%
package policy
