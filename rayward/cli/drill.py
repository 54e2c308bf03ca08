"""placeholder"""
import click
@click.group()
def drill() -> None: ...
