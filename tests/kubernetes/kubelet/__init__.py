"""A small kubelet: binds the Pod runner of `rayward.local` to an API server, so that tests have real Pods."""
