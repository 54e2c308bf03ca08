"""A detached actor that counts, for tests that ask whether it lives on; it runs on a Pod's Python."""

# Prints the actor's next number and how many nodes Ray calls alive. No restarts: a number that goes on was
# kept by the same process.
COUNTER = """
import ray
ray.init(namespace="here")
@ray.remote(num_cpus=0.1, max_restarts=0)
class Counter:
    value = 0
    def add(self):
        self.value += 1
        return self.value
actor = Counter.options(name="counter", lifetime="detached", get_if_exists=True).remote()
print(ray.get(actor.add.remote()), sum(node["Alive"] for node in ray.nodes()))
"""
