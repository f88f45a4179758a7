package main

import (
	"runtime"
	"syscall"
	"time"
)

// pace calls send with each time at which a request is due, from now on for some seconds. It runs on a thread of its own
// and sleeps in the kernel, because the runtime's timers are late by up to a millisecond.
func pace(rate, seconds float64, send func(due time.Time)) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(done)
		began := time.Now()
		for number := range int(rate * seconds) {
			due := began.Add(time.Duration(float64(number) / rate * 1e9))
			if wait := time.Until(due); wait > 0 {
				sleep := syscall.NsecToTimespec(wait.Nanoseconds())
				_ = syscall.Nanosleep(&sleep, nil)
			}
			send(due)
		}
	}()
	<-done
}
