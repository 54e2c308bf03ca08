"""Plain machines without Kubernetes: one short file per machine says what its agent and Ray are told, and
the agents of a cluster's heads are asked over HTTP. Knows no manifests, Pods or clusters of this machine."""
