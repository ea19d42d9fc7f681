package hub

import "time"

// SetFirstPause shortens retries for tests.
func SetFirstPause(s *Source, d time.Duration) { s.firstPause = d }

// SetReadTimeout shortens the time that pages and small files, and the beginnings of large ones, may take.
func SetReadTimeout(s *Source, d time.Duration) { s.readTimeout = d }

// SetPlainLimits lowers the limits of files outside of LFS.
func SetPlainLimits(s *Source, one, all int64) { s.maxPlainFile, s.maxPlain = one, all }
