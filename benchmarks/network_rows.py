"""The list of the rows of network.py."""

from __future__ import annotations

from network_bandwidth import ARGUMENT, RESULT, of_a_stream, of_arrays
from network_hosts import crew_rate, dask_rate, parsl_rate
from network_light import JOINED, paced, storm
from network_loopback import ROUND_TRIP, local_link, tcp_link, tls_link
from network_row import TASKS, Comparison, Contender, Row
from network_slurm import BEGAN, FROM_SUBMIT, THERE_AND_BACK, bare_job, crew_job

ROWS = {
    row.key: row
    for row in (
        Row(
            "loopback",
            "No-op tasks by submit(), 2 workers on this machine: how far workers cost, through one agent",
            {
                "local": Contender("local workers", local_link),
                "tls": Contender("TLS over loopback", tls_link),
                "tcp": Contender("plain tcp over loopback", tcp_link),
            },
            (
                Comparison(TASKS, "tls", "local", 0.5),
                Comparison(TASKS, "tcp", "local"),
                Comparison(ROUND_TRIP, "tls", "local"),
                Comparison(ROUND_TRIP, "tcp", "local"),
            ),
        ),
        Row(
            "bandwidth",
            "One large numpy array over TLS on loopback, against a bare NNG TLS stream between two processes",
            {
                "crew": Contender("CrewExecutor, 1 worker", of_arrays, ("numpy",)),
                "stream": Contender("bare stream", of_a_stream),
            },
            (Comparison(ARGUMENT, "crew", "stream", 0.8), Comparison(RESULT, "crew", "stream", 0.8)),
        ),
        Row(
            "hosts",
            "No-op tasks on two network hosts with 2 workers each",
            {
                "crew": Contender("CrewExecutor", crew_rate),
                "dask": Contender("dask.distributed", dask_rate, ("distributed",)),
                "parsl": Contender("parsl HighThroughputExecutor", parsl_rate, ("parsl",)),
            },
            (Comparison(TASKS, "crew", "dask", 20.0), Comparison(TASKS, "crew", "parsl", 10.0)),
            needs_hosts=True,
        ),
        Row(
            "slurm",
            "The first result of a new executor on an idle Slurm, against a bare job that does nothing",
            {
                "sbatch": Contender("sbatch --wrap=true", bare_job),
                "crew": Contender("CrewExecutor, 1 worker", crew_job),
            },
            (
                Comparison(THERE_AND_BACK, "crew", "sbatch", most=3.0),
                Comparison(FROM_SUBMIT, "crew", "sbatch"),
                Comparison(BEGAN, "crew", "sbatch"),
            ),
            needs_hosts=True,
            seconds=600.0,  # others may have hosts
        ),
        Row(
            "light",
            "Many light agents with one worker each, over TLS on loopback",
            {"paced": Contender("agents call a few at a time", paced), "storm": Contender("all call at once", storm)},
            most={JOINED: 60.0},
            seconds=600.0,
        ),
    )
}
