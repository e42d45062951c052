// Package views is the control plane of a group of replicas: who is in the view, and until when each of them may serve.
package views
