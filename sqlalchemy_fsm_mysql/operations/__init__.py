"""Operations on a database: the doctor, enforcement, figures, adoption."""
