"""What a GCS is told of heads that are gone, on a real one."""

from __future__ import annotations

from pathlib import Path

from agent_node import head, until

from rayward.agent.gcs_nodes import ask_nodes, unregister_heads
from rayward.agent.recycle import NodeState


def test_heads_are_taken_out_of_the_table_but_for_the_one_that_is_spared(
    agent_zip: Path, directory: Path
) -> None:
    with head(agent_zip, directory) as node:
        node.wait_ready()
        gcs = node.status()["gcs"]
        host, port = gcs["host"], gcs["port"]
        (known,) = ask_nodes(host, port, b"", 5).nodes or ()
        assert known.head
        assert unregister_heads(host, port, 5, spared=known.address) == ([], "")
        gone, problem = unregister_heads(host, port, 5)
        assert ([found.node_id for found in gone], problem) == ([known.node_id], "")

        def state() -> NodeState:
            rows = ask_nodes(host, port, b"", 5).nodes or ()
            return next(row.state for row in rows if row.node_id == known.node_id)

        until(lambda: state() is NodeState.DEAD, 30, "the raylet to be dead in the table")
        node.stop()
