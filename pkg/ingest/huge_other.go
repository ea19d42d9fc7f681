//go:build !linux

package ingest

func adviseHuge([]byte) {}
