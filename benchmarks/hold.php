<?php // What the app `hold` of apps.py does. hrtime() is CLOCK_MONOTONIC.
$began = hrtime(true) / 1e9;
usleep((int) (1e6 * (float) ($_GET['hold'] ?? 0)));
printf("%.6f\n", $began);
