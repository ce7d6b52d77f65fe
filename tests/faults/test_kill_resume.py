import subprocess
from pathlib import Path

import pytest
from prepared_python import python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    script = Path(__file__).with_name("kill_resume.py")
    command = [python(), str(script), "--kills=3", f"--folder={tmp_path}", "--seed=3", "--model.sampling.max_tokens=32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "killed 3 times" in done.stdout and "in the save after" in done.stdout
    assert "are those of a run that was not killed, bit for bit" in " ".join(done.stdout.split())
