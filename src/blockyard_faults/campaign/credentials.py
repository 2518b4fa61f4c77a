"""Credentials from a program that is slow, fails, or says odd things, and expire all the time.

The program is a `credential_process` of AWS's shared configuration; each time it is asked it draws
what it does. A call may end in a ConfigError or at its deadline, but has to end.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.calls import OFTEN, AsyncioClient, BlockingClient
from blockyard_faults.campaign.expected import Tally
from blockyard_faults.campaign.jobs import (
    Job,
    block_actors,
    finished,
    opened,
    opened_async,
    perform,
    temporary_folder,
)
from blockyard_faults.campaign.mix import Mix

PROGRAM = """
import json, random, sys, time
from datetime import datetime, timedelta, timezone

def document(**changed):
    expires = datetime.now(timezone.utc) + timedelta(seconds=random.uniform(0.5, 20))
    said = {"Version": 1, "AccessKeyId": "campaign", "SecretAccessKey": "campaign",
            "SessionToken": "token", "Expiration": expires.isoformat()}
    said.update(changed)
    return {name: value for name, value in said.items() if value is not ...}

odd = [
    document(AccessKeyId=...), document(SecretAccessKey=...), document(Expiration=...),
    document(Version=2), document(Version=...), document(AccessKeyId=None),
    document(SecretAccessKey=7), document(AccessKeyId=["campaign"]), document(Expiration="soon"),
    document(Expiration=1234567890), document(Expiration={}), document(SessionToken=17),
    document(AccessKeyId=""), document(SecretAccessKey=""), document(AccessKeyId="a\\nb"),
    document(Expiration="2001-01-01T00:00:00Z"), [], None, 7, "text", {}, [document()],
]
drawn = random.random()
if drawn < 0.10:
    time.sleep(random.uniform(0.5, 8))
elif drawn < 0.13:
    time.sleep(15)  # longer than the deadlines that are drawn
elif drawn < 0.23:
    sys.exit("the program has failed")
elif drawn < 0.38:
    print(json.dumps(random.choice(odd)))
    sys.exit()
elif drawn < 0.42:
    print(random.choice(["", "{", "<html>", "\\x00\\xff", "null null", "[" * 2000]))
    sys.exit()
print(json.dumps(document()))
"""


def arrange(folder: Path) -> None:
    """Let this process find its credentials by that program, and nowhere else."""
    program = folder / "credentials.py"
    _ = program.write_text(PROGRAM)
    config = folder / "config"
    command = f"{sys.executable} -S -E {program}"
    _ = config.write_text(f"[default]\ncredential_process = {command}\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def without_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a store that has to look for its credentials."""
    return {name: value for name, value in settings.items() if not name.endswith("_key")}


def looked_for(job: Job) -> Tally:
    """Threads and tasks on stores whose credentials come from the program."""
    half = [str(number) for number in range(job.actors // 2)]
    settings = without_keys(job.settings)

    def work(mix: Mix) -> None:
        run_to_end(perform(job, mix))

    with temporary_folder() as folder:
        arrange(folder)
        with opened(settings) as store:
            blocking = block_actors(job, BlockingClient(store), [f"thread{name}" for name in half])
            with ThreadPoolExecutor(len(blocking)) as pool:
                mixes = [Mix(actor, f"{job.seed} {actor.namespace}", OFTEN) for actor in blocking]
                _ = list(pool.map(work, mixes))

        async def work_async() -> list[Actor]:
            async with opened_async(settings) as store:
                actors = block_actors(job, AsyncioClient(store), [f"task{name}" for name in half])
                mixes = [Mix(actor, f"{job.seed} {actor.namespace}", OFTEN) for actor in actors]
                _ = await asyncio.gather(*[perform(job, mix) for mix in mixes])
                return actors

        return finished(job, [*blocking, *asyncio.run(work_async())])
