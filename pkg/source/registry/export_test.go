package registry

import "time"

// SetFirstPause shortens retries for tests.
func SetFirstPause(s *Source, d time.Duration) { s.firstPause = d }

// SetReadTimeout shortens the time that manifests, and the beginnings of blobs, may take.
func SetReadTimeout(s *Source, d time.Duration) { s.readTimeout = d }

// SetFallback changes the size of the chunks where whole blobs are refused.
func SetFallback(p *Pusher, n int64) { p.fallback = n }
