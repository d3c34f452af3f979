"""machserial completion"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from machserial.options import Command

VARIABLE = "_MACHSERIAL_COMPLETE"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell completion script.

    \b
    bash:  eval "$(machserial completion bash)"      in ~/.bashrc
    zsh:   eval "$(machserial completion zsh)"       in ~/.zshrc
    fish:  machserial completion fish > ~/.config/fish/completions/machserial.fish
    """
    script = get_completion_class(shell)(context.find_root().command, {}, "machserial", VARIABLE).source()
    click.echo(script)
