"""What operators ask of a database: the doctor, enforcement, figures."""
